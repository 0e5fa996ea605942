#!/usr/bin/env bash
# Budhraja et al. 2020, tables 1 to 3 and figure 2, EN-RU: heads by chance, by layer and by kind, then fine-tuning.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"
# shellcheck source=../lib/budhraja.sh
. "$LIB/budhraja.sh"

main() {
    local percent pattern split
    prepare_corpus
    train_model base
    evaluate base "$WORK/models/base.pt"
    for percent in $PERCENTS; do random_share "$percent"; done
    for pattern in $LAYERS; do
        # shellcheck disable=SC2086 # four words
        layers layers-${pattern//:/ }
    done
    for split in $KINDS; do kinds "$split"; done
    change_of_weights "random-${PERCENTS%% *}"
}

run_recipe "$@"
