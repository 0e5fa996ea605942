# Plans and slim models: plans/NAME.json, models/NAME.pt.
# shellcheck shell=bash

# make_plan NAME CHECKPOINT OPTION...: a plan by nmtprune plan.
make_plan() {
    local name=$1 checkpoint=$2
    shift 2
    step "plan-$name" run nmtprune plan "$checkpoint" "$@" --force -o "$WORK/plans/$name.json"
}

# make_slim NAME CHECKPOINT PLAN [OPTION...]: the checkpoint without the heads that the plan removes, verified.
make_slim() {
    local name=$1 checkpoint=$2 plan=$3
    shift 3
    step "slim-$name" run nmtprune slim "$checkpoint" --plan "$plan" "$@" --force -o "$WORK/models/$name.pt"
}

# prune_and_tune ROW SEED OPTION...: heads of models/base.pt that nmtprune plan chooses go, the rest is trained on.
prune_and_tune() {
    local row=$1 seed=$2 name=$1-$2
    shift 2
    make_plan "$name" "$WORK/models/base.pt" --seed "$seed" "$@"
    make_slim "$name.cut" "$WORK/models/base.pt" "$WORK/plans/$name.json"
    fine_tune "$name" "$WORK/models/$name.cut.pt"
    evaluate "$row" "$WORK/models/$name.pt" "$seed"
}

# train_gates NAME CHECKPOINT OPTION...: gates learn which heads go, in FINE_TUNE_UPDATES; l0-NAME/slim.pt and plan.json.
# As in the papers, gates and weights learn together to the end.
train_gates() {
    local name=$1 checkpoint=$2
    shift 2
    # shellcheck disable=SC2046 # options are words
    step "l0-$name" run nmtprune l0 "$checkpoint" $(data_options) --l0-weight "$L0_WEIGHT" --gate-lr-scale 10 "$@" \
        --seed "$SEED" --resume -o "$WORK/l0-$name" -- --max-update "$FINE_TUNE_UPDATES" $(fine_tune_schedule) $(machine_options)
}

# play_lottery NAME SUBSETS OPTION...: rewind and prune, the shape trained as a new model; the folder is NAME.
# As in the paper, modules may lose all heads.
play_lottery() {
    local name=$1 subsets=$2
    shift 2
    # shellcheck disable=SC2046 # options are words
    step "$name" run nmtprune lottery $(data_options) --test-subset "$subsets" -o "$WORK/$name" --seed "$SEED" --resume \
        --min-heads-per-module "${LOTTERY_LEAST_HEADS:-0}" "$@" -- $(shape_options) $(schedule "$LEARNING_RATE" "$WARMUP_UPDATES") $(loss_options) "${OPTIMIZER[@]}" \
        $(machine_options)
}

# ticket FOLDER ITERATION[-CONTROL]: the converged model of an iteration.
ticket() { printf '%s/%s/converged/iteration-%02d%s/model.pt' "$WORK" "$1" "${2%%-*}" "$(sed -n 's/^[0-9]*\(-.*\)/\1/p' <<<"$2")"; }

# test_subsets: all tests as fairseq-preprocess numbers them: test, test1, test2, ...
test_subsets() { test_names | awk '{ print "test" (NR > 1 ? NR - 1 : "") }' | paste -sd ,; }

# data_options: sentences to measure on while pruning, for commands that read binarized data.
data_options() {
    printf '%s ' --data-bin "$DATA_BIN" --subset valid --post-process sentencepiece $(search_options)
}

search_options() { printf '%s ' --beam "$BEAM" --lenpen "$LENPEN" $TRANSLATE_OPTIONS; }

# share_of COUNT PERCENT: so many heads are so many percent, rounded half up as plans do.
share_of() { echo $((($1 * $2 + 50) / 100)); }
