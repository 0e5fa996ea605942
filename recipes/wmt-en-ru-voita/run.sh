#!/usr/bin/env bash
# Voita et al. 2019, section 6: gates on encoder heads, and on heads of all kinds; the same shapes from scratch.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"

main() {
    local heads
    prepare_corpus
    train_model base
    evaluate base "$WORK/models/base.pt"
    for heads in $ENCODER_HEADS; do
        # The decoder stays as it is, so that what encoder heads did does not move there (section 6.2).
        train_gates "encoder-$heads" "$WORK/models/base.pt" --kinds encoder --freeze decoder --target-heads "$heads"
        evaluate "encoder-$heads" "$WORK/l0-encoder-$heads/slim.pt"
    done
    for heads in $ALL_HEADS; do
        train_gates "all-$heads" "$WORK/models/base.pt" --target-heads "$heads"
        evaluate "all-$heads" "$WORK/l0-all-$heads/slim.pt"
        make_slim "scratch-$heads.fresh" "$WORK/models/base.pt" "$WORK/l0-all-$heads/plan.json" --reinit --other-weights
        train_shape "scratch-$heads" "$WORK/models/scratch-$heads.fresh.pt" "$BASE_UPDATES"
        evaluate "scratch-$heads" "$WORK/models/scratch-$heads.pt"
    done
}

run_recipe "$@"
