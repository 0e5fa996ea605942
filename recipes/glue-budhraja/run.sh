#!/usr/bin/env bash
# Budhraja et al. 2020, tables 4 to 6 and figure 2: heads of a pre-trained encoder go, what is left learns tasks of GLUE.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"
# shellcheck source=../lib/glue.sh
. "$LIB/glue.sh"

main() {
    local percent seed pattern drift
    prepare_glue --calibration 0
    learn base "$WORK/models/pretrained.pt"
    # Table 4: heads by chance.
    for percent in $PERCENTS; do
        for seed in $SEEDS; do prune_and_learn "random-$percent" "$seed" --random "$percent%" --seed "$seed"; done
    done
    # Tables 5 and 6: whole layers.
    for pattern in $PATTERNS; do prune_and_learn "${pattern//[:,]/-}" '' --empty-layers "$pattern"; done
    # Figure 2: how far heads moved.
    for drift in $DRIFTS; do step "drift-$drift" change_of_weights "$drift" "${TASKS%% *}"; done
}

# learn ROW CHECKPOINT [SEED]: fine-tune on every task, and measure.
learn() {
    local task name=$1${3:+-$3}
    for task in $TASKS; do
        fine_tune_on "$task" "$name" "$2" "$EPOCHS" "${3:-}"
        accuracy_of "$task" "$1" "$WORK/models/$task-$name.pt" "${3:-}"
    done
}

# prune_and_learn ROW SEED OPTION...: options of nmtprune plan; SEED is empty where nothing is drawn.
prune_and_learn() {
    local row=$1 seed=$2 name=$1${2:+-$2}
    shift 2
    make_plan "$name" "$WORK/models/pretrained.pt" "$@"
    make_slim "$name.cut" "$WORK/models/pretrained.pt" "$WORK/plans/$name.json"
    learn "$row" "$WORK/models/$name.cut.pt" "$seed"
}

# change_of_weights NAME TASK: by how much each head changed while the model learned the task.
change_of_weights() {
    run nmtprune drift "$WORK/models/$1.cut.pt" "$WORK/models/$2-$1.pt" --format json >"$WORK/results/drift-$1.json"
    record_figures 1 drift "$WORK/results/drift-$1.json" "drift-$1"
}

run_recipe "$@"
