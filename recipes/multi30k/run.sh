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
        random_heads "$percent" "${SEEDS%% *}"
        greedy_heads "$percent"
        gated_heads "$percent"
    done
    from_scratch "${PERCENTS%% *}"
    step lottery play_lottery
    converge_tickets
    more_random_heads
    step speed measure_speed
    step collect run python "$HERE/collect.py" "$WORK"
}

# random_heads PERCENT SEED: removed at random, then trained on (Budhraja et al.).
random_heads() {
    local name=random-$1-$2
    make_plan "$name" "$WORK/models/base.pt" --random "$1%" --seed "$2"
    make_slim "$name.cut" "$WORK/models/base.pt" "$WORK/plans/$name.json"
    fine_tune "$name" "$WORK/models/$name.cut.pt"
    evaluate "random-$1" "$WORK/models/$name.pt" "$2"
}

more_random_heads() {
    local percent seed
    for percent in $PERCENTS; do
        for seed in ${SEEDS#* }; do random_heads "$percent" "$seed"; done
    done
}

# sweep: heads go in the order of their importance; a plan, and the BLEU before any further training, for every step.
sweep() {
    run nmtprune greedy "$WORK/models/base.pt" $(data_options) --order importance --order random --samples 1 \
        --step "$GREEDY_STEP" --until "$GREEDY_UNTIL" --resume -o "$WORK/greedy"
}

# greedy_heads PERCENT: the least important heads removed, then trained on (Michel et al. do not train on).
greedy_heads() {
    step "plan-greedy-$1" take_step "$1"
    make_slim "greedy-$1.cut" "$WORK/models/base.pt" "$WORK/plans/greedy-$1.json"
    fine_tune "greedy-$1" "$WORK/models/greedy-$1.cut.pt"
    evaluate "greedy-$1" "$WORK/models/greedy-$1.pt"
}

take_step() {
    run cp "$WORK/greedy/plans/importance/$(printf '%03d' "$(heads_of "$WORK/models/base.pt" "$1")").json" \
        "$WORK/plans/greedy-$1.json"
}

# gated_heads PERCENT: gates learn which heads go, within the updates of the other methods (Voita et al.).
gated_heads() {
    step "l0-$1" train_gates "$1"
    evaluate "l0-$1" "$WORK/l0-$1/slim.pt"
}

train_gates() {
    local base=$WORK/models/base.pt kept
    kept=$(($(heads_of "$base" 100) - $(heads_of "$base" "$1")))
    run nmtprune l0 "$base" $(data_options) --l0-weight "$L0_WEIGHT" --target-heads "$kept" --resume \
        -o "$WORK/l0-$1" -- --max-update "$FINE_TUNE_UPDATES" $(fine_tune_schedule) $(machine_options)
}

# from_scratch PERCENT: the shape that the gates found with fresh weights, trained as the base was and then on.
from_scratch() {
    make_slim "scratch-$1.fresh" "$WORK/models/base.pt" "$WORK/l0-$1/plan.json" --reinit --other-weights
    train_shape "scratch-$1" "$WORK/models/scratch-$1.fresh.pt" "$BASE_UPDATES"
    fine_tune "scratch-$1.tuned" "$WORK/models/scratch-$1.pt"
    evaluate "scratch-$1" "$WORK/models/scratch-$1.tuned.pt"
}

# play_lottery: the least confident heads go, the others are rewound, again and again (Behnke and Heafield).
play_lottery() {
    run nmtprune lottery $(data_options) --test-subset test -o "$WORK/lottery" --resume \
        --pretrain-updates "$LOTTERY_PRETRAIN" --prune-updates "$LOTTERY_PRUNE" \
        --heads-per-iteration "$LOTTERY_HEADS" --until "$LOTTERY_UNTIL" \
        --converge-iterations "$(printf '%s\n' $LOTTERY_TICKETS | sed 's/.*://; s/^0*//' | paste -sd ,)" \
        --converge-updates "$BASE_UPDATES" --patience 1000 -- \
        $(shape_options) $(schedule "$LEARNING_RATE" "$WARMUP_UPDATES") $(loss_options) "${OPTIMIZER[@]}" \
        $(machine_options)
}

# converge_tickets: what the base has had when it is pruned, the tickets have had when they are trained on like the others.
converge_tickets() {
    local ticket
    for ticket in $LOTTERY_TICKETS; do
        fine_tune "lottery-${ticket%:*}" "$WORK/lottery/converged/iteration-${ticket#*:}/model.pt"
        evaluate "lottery-${ticket%:*}" "$WORK/models/lottery-${ticket%:*}.pt"
    done
}

# measure_speed: all slim models and the unpruned one in turns, on one thread.
measure_speed() {
    local row models=("$WORK/models/none.pt") rows=()
    for row in $PERCENTS; do
        models+=("$WORK/models/random-$row-${SEEDS%% *}.pt" "$WORK/models/greedy-$row.pt" "$WORK/l0-$row/slim.pt")
        rows+=("random-$row" "greedy-$row" "l0-$row")
    done
    for row in $LOTTERY_TICKETS; do
        models+=("$WORK/models/lottery-${row%:*}.pt")
        rows+=("lottery-${row%:*}")
    done
    run nmtprune bench "${models[@]}" --data-bin "$WORK/data-bin" --subset test --post-process sentencepiece \
        $(search_options) --batch-size 32 --threads 1 --repeat "$BENCH_ROUNDS" --force -o "$WORK/bench.json"
    record_speeds "$WORK/bench.json" "${rows[@]}"
}

run_recipe "$@"
