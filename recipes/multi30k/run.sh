#!/usr/bin/env bash
# All methods on one model of Multi30k EN-DE, with the same number of updates after the common base.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"

main() {
    local percent
    prepare_corpus
    train_model base
    evaluate base "$WORK/models/base.pt"
    fine_tune none "$WORK/models/base.pt"
    evaluate none "$WORK/models/none.pt"
    step greedy sweep
    for percent in $PERCENTS; do
        prune_and_tune "random-$percent" "${SEEDS%% *}" --random "$percent%"
        greedy_heads "$percent"
        gated_heads "$percent"
    done
    from_scratch "${PERCENTS%% *}"
    # The least confident heads go, the others are rewound, again and again (Behnke and Heafield).
    play_lottery lottery test --pretrain-updates "$LOTTERY_PRETRAIN" --prune-updates "$LOTTERY_PRUNE" \
        --heads-per-iteration "$LOTTERY_HEADS" --until "$LOTTERY_UNTIL" --converge-updates "$BASE_UPDATES" \
        --converge-iterations "$(printf '%s\n' $LOTTERY_TICKETS | sed 's/.*://' | paste -sd ,)" --patience 1000
    converge_tickets
    more_random_heads "${PERCENTS%% *}"
    measure_speed
    step collect run python "$HERE/collect.py" "$WORK" ${DATA:+"$DATA"}
}

# more_random_heads PERCENT: what chance adds to the result.
more_random_heads() {
    local seed
    for seed in ${SEEDS#* }; do prune_and_tune "random-$1" "$seed" --random "$1%"; done
}

# sweep: heads go in the order of their importance; a plan, and the BLEU before any further training, for every step.
sweep() {
    run nmtprune greedy "$WORK/models/base.pt" $(data_options) --order importance --order random --samples 1 \
        --importance-normalize layer --step "$GREEDY_STEP" --until "$GREEDY_UNTIL" --resume -o "$WORK/greedy"
}

# greedy_heads PERCENT: the least important heads removed, then trained on (Michel et al. do not train on).
greedy_heads() {
    local removed
    removed=$(printf '%03d' "$(share_of $((3 * ENCODER_LAYERS * HEADS)) "$1")")
    make_slim "greedy-$1.cut" "$WORK/models/base.pt" "$WORK/greedy/plans/importance/$removed.json"
    fine_tune "greedy-$1" "$WORK/models/greedy-$1.cut.pt"
    evaluate "greedy-$1" "$WORK/models/greedy-$1.pt"
}

# gated_heads PERCENT: gates learn which heads go, within the updates of the other methods (Voita et al.).
gated_heads() {
    local all=$((3 * ENCODER_LAYERS * HEADS))
    train_gates "$1" "$WORK/models/base.pt" --target-heads $((all - $(share_of "$all" "$1")))
    evaluate "l0-$1" "$WORK/l0-$1/slim.pt"
}

# from_scratch PERCENT: the shape that the gates found with fresh weights, trained as the base was and then on.
from_scratch() {
    make_slim "scratch-$1.fresh" "$WORK/models/base.pt" "$WORK/l0-$1/plan.json" --reinit --other-weights
    train_shape "scratch-$1" "$WORK/models/scratch-$1.fresh.pt" "$BASE_UPDATES"
    fine_tune "scratch-$1.tuned" "$WORK/models/scratch-$1.pt"
    evaluate "scratch-$1" "$WORK/models/scratch-$1.tuned.pt"
}

# converge_tickets: what the base has had when it is pruned, the tickets have had when they are trained on like the others.
converge_tickets() {
    local ticket
    for ticket in $LOTTERY_TICKETS; do
        fine_tune "lottery-${ticket%:*}" "$(ticket lottery "${ticket#*:}")"
        evaluate "lottery-${ticket%:*}" "$WORK/models/lottery-${ticket%:*}.pt"
    done
}

# measure_speed: all slim models and the unpruned one in turns, on one thread.
measure_speed() {
    local row rows=("none=$WORK/models/none.pt")
    for row in $PERCENTS; do
        rows+=("random-$row=$WORK/models/random-$row-${SEEDS%% *}.pt" "greedy-$row=$WORK/models/greedy-$row.pt"
            "l0-$row=$WORK/l0-$row/slim.pt")
    done
    for row in $LOTTERY_TICKETS; do rows+=("lottery-${row%:*}=$WORK/models/lottery-${row%:*}.pt"); done
    compare_speed models test "${rows[@]}"
}

run_recipe "$@"
