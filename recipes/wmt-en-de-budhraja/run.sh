#!/usr/bin/env bash
# Budhraja et al. 2020, table 1 and figure 2, EN-DE: heads by chance, then fine-tuning.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"
# shellcheck source=../lib/budhraja.sh
. "$LIB/budhraja.sh"

main() {
    local percent
    prepare_corpus
    train_model base
    evaluate base "$WORK/models/base.pt"
    for percent in $PERCENTS; do random_share "$percent"; done
    change_of_weights "random-${PERCENTS%% *}"
}

run_recipe "$@"
