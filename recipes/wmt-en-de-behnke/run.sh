#!/usr/bin/env bash
# Behnke & Heafield 2020, tables 1 and 2: fewer heads of the same size from the start; gates on a converged model.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"

main() {
    local heads weights
    prepare_corpus
    for heads in $HEAD_COUNTS; do
        HEADS=$heads WIDTH=$BIG_WIDTH FEED_FORWARD=$BIG_FEED_FORWARD LEARNING_RATE=$BIG_RATE train_model "heads-$heads"
        evaluate "heads-$heads" "$WORK/models/heads-$heads.pt"
    done
    train_model base
    evaluate base "$WORK/models/base.pt"
    for weights in $LAMBDAS; do
        L0_WEIGHT=${weights#*:} train_gates "${weights%:*}" "$WORK/models/base.pt"
        evaluate "l0-${weights%:*}" "$WORK/l0-${weights%:*}/slim.pt"
        step "sparsity-${weights%:*}" record_sparsity "${weights%:*}"
    done
}

# record_sparsity LAMBDA: percent of the heads that the gates have closed.
record_sparsity() {
    local all=$(((2 * DECODER_LAYERS + ENCODER_LAYERS) * HEADS)) kept
    kept=$(pick "$WORK/l0-$1/l0.json" runs.0.kept)
    record "l0-$1" sparsity "$(awk -v all="$all" -v kept="$kept" 'BEGIN { print 100 * (all - kept) / all }')"
}

run_recipe "$@"
