#!/usr/bin/env bash
# Behnke & Heafield 2020, tables 3 and 7a: a transformer-big plays the lottery, all kinds of heads.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"
# shellcheck source=../lib/behnke.sh
. "$LIB/behnke.sh"

main() {
    prepare_corpus
    play_lottery lottery "$(test_subsets)" --pretrain-updates "$PRETRAIN" --prune-updates "$PRUNE" \
        --heads-per-iteration "$HEADS_PER_ITERATION" --until "$UNTIL" --converge-iterations "${ITERATIONS// /,}" \
        --converge-updates "$BASE_UPDATES" --patience "$PATIENCE"
    evaluate base "$(ticket lottery 0)"
    evaluate_tickets lottery '' '' $ITERATIONS
    compare_speed big test "base=$(ticket lottery 0)" "$(row_of '' "$FASTEST")=$(ticket lottery "$FASTEST")"
}

run_recipe "$@"
