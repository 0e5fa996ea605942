# From nothing to binarized data: get, clean, learn pieces, split, binarize.
# shellcheck shell=bash

set_names() {
    local set
    for set in $SETS; do printf '%s\n' "${set%%=*}"; done
}

# test_names: sets that are neither train nor val.
test_names() { set_names | grep -vx -e train -e val; }

# prepare_corpus: corpus/NAME.LANG (clean), spm.model, data-bin (train, valid, and the tests in the order of test_names).
prepare_corpus() {
    step corpus get_corpus
    step clean clean_corpus
    step vocabulary learn_vocabulary
    step pieces split_pieces "$WORK/corpus" "$WORK/pieces"
    step binarize binarize "$WORK/pieces" "$DATA_BIN"
}

get_corpus() {
    rm -rf "$WORK/raw"
    mkdir "$WORK/raw"
    if [ -n "$SMOKE" ]; then
        generate_corpus
    elif [ -n "$DATA" ]; then
        local file
        for file in $(needed_files); do
            if [ -e "$DATA/$file" ]; then ln -s "$DATA/$file" "$WORK/raw/$file"; else ln -s "$DATA/$file.gz" "$WORK/raw/$file.gz"; fi
        done
    else
        # shellcheck disable=SC2086 # sets are words
        run python "$LIB/fetch.py" "$WORK/raw" --languages "$SOURCE_LANG-$TARGET_LANG" --mtdata "$MTDATA_LANGS" \
            --also "${PRETRAINED_FILES:-}" $SETS
    fi
}

# generate_corpus: sentences of a small artificial grammar, under the names of the real sets.
generate_corpus() {
    local tests number=0 name pair
    mapfile -t tests < <(test_names)
    run python -m nmtprune.demo.corpus "$WORK/raw/made" --train "$SMOKE_TRAIN" --val "$SMOKE_VAL" \
        --test $((SMOKE_TEST * ${#tests[@]}))
    for pair in "src $SOURCE_LANG" "tgt $TARGET_LANG"; do
        mv "$WORK/raw/made/train.${pair% *}" "$WORK/raw/train.${pair#* }"
        mv "$WORK/raw/made/val.${pair% *}" "$WORK/raw/val.${pair#* }"
    done
    for name in "${tests[@]}"; do
        for pair in "src $SOURCE_LANG" "tgt $TARGET_LANG"; do
            tail -n +$((number * SMOKE_TEST + 1)) "$WORK/raw/made/test.${pair% *}" | head -n "$SMOKE_TEST" \
                >"$WORK/raw/$name.${pair#* }" || [ $? -eq 141 ]
        done
        number=$((number + 1))
    done
    rm -r "$WORK/raw/made"
}

clean_corpus() {
    rm -rf "$WORK/corpus"
    # shellcheck disable=SC2046 # names are words
    run python "$LIB/clean.py" "$WORK/raw" "$WORK/corpus" --languages "$SOURCE_LANG-$TARGET_LANG" \
        --max-words "$MAX_WORDS" --max-ratio "$MAX_RATIO" --limit "$TRAIN_LIMIT" --seed "$SEED" $(set_names)
}

learn_vocabulary() {
    rm -f "$WORK/spm.model"
    run python -m nmtprune.demo.subwords learn "$WORK/corpus" --languages "$SOURCE_LANG-$TARGET_LANG" \
        --max-size "$VOCABULARY" -o "$WORK/spm.model"
}

# split_pieces CORPUS OUTPUT
split_pieces() {
    rm -rf "$2"
    run python -m nmtprune.demo.subwords encode "$1" --languages "$SOURCE_LANG-$TARGET_LANG" \
        --model "$WORK/spm.model" -o "$2"
}

# binarize PIECES OUTPUT [OPTION...]: options of fairseq-preprocess; without any, the dictionary is made.
binarize() {
    local pieces=$1 output=$2 tests
    shift 2
    tests=$(test_names | sed "s|^|$pieces/test.|" | paste -sd ,)
    rm -rf "$output"
    run fairseq-preprocess --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG" --joined-dictionary \
        --trainpref "$pieces/train" --validpref "$pieces/val" --testpref "$tests" \
        --destdir "$output" --workers "$(nproc)" "$@"
}

# take FILE FOLDER: a file of --data, unpacked where it is there as .gz.
take() {
    if [ -e "$DATA/$1" ]; then ln -s "$DATA/$1" "$2/$1"; else gunzip -c "$DATA/$1.gz" >"$2/$1"; fi
}

# download ADDRESS FOLDER FILES: a file under its own name; FILES is what --data would have to hold.
download() {
    run curl --fail --silent --show-error --location "$1" -o "$2/${1##*/}" || {
        echo "Error: step $STEP cannot get $1; without a network, --data DIR takes files that are there: ${3// /, }"
        return 5
    }
    sha256sum "$2/${1##*/}"
}
