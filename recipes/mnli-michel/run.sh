#!/usr/bin/env bash
# Michel et al. 2019, tables 3, 4 and 6, figures 1b, 2b and 3b: heads of a classifier, one at a time and step by step.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"
# shellcheck source=../lib/glue.sh
. "$LIB/glue.sh"

main() {
    prepare_glue --calibration "$CALIBRATION"
    fine_tune_on MNLI base "$WORK/models/pretrained.pt" "$EPOCHS"
    MODEL=$WORK/models/MNLI-base.pt
    # Figures 1b and 2b: a head at a time, on the matched and on the mismatched sentences.
    score_heads ablate valid
    score_heads ablate-mismatched test
    step figure-1 record_figures 1 ablation "$WORK/results/ablate.json" ablate
    step figure-2 compare_domains
    # Table 3: all heads of a layer but one; table 6: that one is chosen on training sentences.
    score_heads only valid --all-but-one
    score_heads only-train test1 --all-but-one --test-subset valid
    step table-3 record_figures 1 only_head "$WORK/results/only.json" only
    step table-6 record_figures 1 only_head "$WORK/results/only-train.json" only-train
    # Figure 3b: heads go by tenths, by importance and by the scores of figure 1b.
    step sweep sweep
    step slim-pruned slim_pruned
    # Table 4.
    step speed time_pruned
}

measured_on() { printf '%s ' --data-bin "$WORK/data-bin/MNLI" --subset "$1"; }

# score_heads NAME SUBSET [OPTION...]
score_heads() {
    local name=$1 subset=$2
    shift 2
    step "score-$name" run nmtprune score "$MODEL" $(measured_on "$subset") --metric "$METRIC" "$@" --resume \
        -o "$WORK/results/$name.json"
}

compare_domains() {
    run nmtprune compare "$WORK/results/ablate.json" "$WORK/results/ablate-mismatched.json" --format json \
        >"$WORK/results/domains.json"
    record_figures 1 correlation "$WORK/results/domains.json" domains
}

sweep() {
    run nmtprune greedy "$MODEL" $(measured_on valid) --metric accuracy --order importance \
        --order "$WORK/results/ablate.json" --resume --importance-normalize layer --importance-subset test1 -o "$WORK/sweep"
    record_figures 1 curves "$WORK/sweep/curve.json" sweep
}

# slim_pruned: the model of the curve of importance that has lost PRUNED percent.
slim_pruned() {
    local removed
    removed=$(printf '%03d' "$(share_of $((ENCODER_LAYERS * HEADS)) "$PRUNED")")
    run nmtprune slim "$MODEL" --plan "$WORK/sweep/plans/importance/$removed.json" --force -o "$WORK/models/pruned.pt"
}

# time_pruned: the unpruned and the slim model in turns.
time_pruned() {
    run nmtprune bench "$MODEL" "$WORK/models/pruned.pt" $(measured_on valid) $BENCH_OPTIONS --force \
        -o "$WORK/results/bench.json"
    record_figures 1 bench "$WORK/results/bench.json" "pruned-$PRUNED"
}

run_recipe "$@"
