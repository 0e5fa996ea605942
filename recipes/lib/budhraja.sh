# Budhraja et al. 2020, section 3.2: heads chosen by chance, under conditions; what is left is trained on.
# shellcheck shell=bash

# random_share PERCENT: table 1. 87 % is one head in each module there.
random_share() {
    local seed
    for seed in $SEEDS; do
        if [ "$1" = 87 ]; then
            prune_and_tune random-87 "$seed" --keep 'encoder=111111 cross=111111 decoder=111111'
        else
            prune_and_tune "random-$1" "$seed" --random "$1%"
        fi
    done
}

# layers ROW ENCODER CROSS DECODER: table 2, heads kept per layer.
layers() {
    local seed
    for seed in $SEEDS; do prune_and_tune "$1" "$seed" --keep "encoder=$2 cross=$3 decoder=$4"; done
}

# kinds ENCODER/DECODER/CROSS: table 3, heads kept per kind; the paper writes encoder, cross, decoder.
kinds() {
    local seed
    for seed in $SEEDS; do prune_and_tune "kinds-${1//\//-}" "$seed" --keep "$1"; done
}

# change_of_weights ROW: figure 2, how far each head has moved while what is left was trained on.
change_of_weights() {
    step "drift-$1" do_change_of_weights "$1-${SEEDS%% *}"
}

do_change_of_weights() {
    run nmtprune drift "$WORK/models/$1.cut.pt" "$WORK/models/$1.pt" --format tsv >"$WORK/results/drift-$1.tsv"
}
