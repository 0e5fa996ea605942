# Behnke & Heafield 2020: models of single iterations of the lottery.
# shellcheck shell=bash

# row_of PREFIX ITERATION: the row of a converged iteration, i13 or pushy-i6; a smoke says what its iterations stand for.
row_of() {
    local stands_for=ROW_OF_$2
    printf '%s%s' "$1" "${!stands_for:-i$2}"
}

# evaluate_tickets FOLDER PREFIX CONTROL ITERATION...: the converged models of a lottery, or a control of each (-reinit).
evaluate_tickets() {
    local folder=$1 prefix=$2 control=$3 iteration
    shift 3
    for iteration in "$@"; do
        evaluate "$(row_of "$prefix" "$iteration")" "$(ticket "$folder" "$iteration$control")"
    done
}
