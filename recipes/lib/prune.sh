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

# data_options: sentences to measure on while pruning, for commands that read binarized data.
data_options() {
    printf '%s ' --data-bin "$WORK/data-bin" --subset valid --post-process sentencepiece $(search_options)
}

search_options() { printf '%s ' --beam "$BEAM" --lenpen "$LENPEN" $TRANSLATE_OPTIONS; }

# heads_of CHECKPOINT PERCENT: so many heads are so many percent, rounded as plans do.
heads_of() {
    nmtprune inspect "$1" --format json | python -c '
import json, sys
from decimal import ROUND_FLOOR, Decimal
share = Decimal(json.load(sys.stdin)["heads"]) * Decimal(sys.argv[1]) / 100
print(int((share + Decimal("0.5")).to_integral_value(ROUND_FLOOR)))' "$2"
}
