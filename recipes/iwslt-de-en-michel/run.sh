#!/usr/bin/env bash
# Michel et al. 2019, figures 5 and 6d: when in training the important heads emerge; one sweep per epoch.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"

main() {
    prepare_corpus
    step train-epochs train_epochs
    step sweep sweep
    evaluate final "$WORK/models/epoch-${EPOCHS##* }.pt"
}

# train_epochs: models/epoch-N.pt for each of EPOCHS.
train_epochs() {
    local folder=$WORK/trainings/epochs epoch
    # Stopped after the training, while models were put in their places.
    [ ! -e "$WORK/models/epoch-${EPOCHS##* }.pt" ] || { rm -rf "$folder" && return 0; }
    mkdir -p "$folder"
    run $(trainer) "$DATA_BIN" --user-dir "$(nmtprune user-dir)" --save-dir "$folder" --max-epoch "${EPOCHS##* }" \
        --seed "$SEED" --log-format simple --log-interval 100 $(shape_options) \
        $(schedule "$LEARNING_RATE" "$WARMUP_UPDATES") $(loss_options) "${OPTIMIZER[@]}" $(machine_options)
    # The last epoch's comes last: where it is, all are.
    for epoch in $EPOCHS; do
        [ -e "$WORK/models/epoch-$epoch.pt" ] || mv "$folder/checkpoint$epoch.pt" "$WORK/models/epoch-$epoch.pt"
    done
    rm -r "$folder"
}

# sweep: heads of every epoch's model by importance, by tenths, without further training.
sweep() {
    # shellcheck disable=SC2046,SC2086 # options and epochs are words
    run nmtprune greedy $(printf "$WORK/models/epoch-%s.pt " $EPOCHS) $(data_options) --metric "$METRIC" --resume \
        --importance-normalize layer -o "$WORK/greedy"
    record_figures 1 curves "$WORK/greedy/curve.json" epochs
}

run_recipe "$@"
