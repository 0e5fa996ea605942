# Translations, BLEU with its interval, and figures about a model; everything lies in results/.
# shellcheck shell=bash

# evaluate ROW CHECKPOINT [SAMPLE]: BLEU on every test set, heads and parameters. Samples of a row are averaged.
evaluate() { step "evaluate-$1${3:+-$3}" do_evaluate "$1" "$2" "${3:-1}"; }

do_evaluate() {
    local row=$1 checkpoint=$2 sample=$3 name=$1-$3 test found
    [ "$sample" != 1 ] || name=$1
    for test in $(test_names); do
        run nmtprune translate "$checkpoint" --data-bin "$WORK/data-bin" --sentencepiece "$WORK/spm.model" \
            --source "$WORK/corpus/test.$test.$SOURCE_LANG" $(search_options) >"$WORK/results/$name.$test.txt"
        measure_bleu "$WORK/corpus/test.$test.$TARGET_LANG" "$WORK/results/$name.$test.txt" "$WORK/results/$name.$test.json"
        found=$(pick "$WORK/results/$name.$test.json" score confidence_mean=0 confidence_var=0)
        # shellcheck disable=SC2086 # three numbers
        record "$row" "$test" $(interval $found) "$sample"
    done
    nmtprune inspect "$checkpoint" --format json >"$WORK/results/$name.inspect.json"
    record "$row" heads "$(pick "$WORK/results/$name.inspect.json" heads)" '' '' "$sample"
    record "$row" parameters "$(pick "$WORK/results/$name.inspect.json" parameters.total)" '' '' "$sample"
}

# measure_bleu REFERENCE TRANSLATIONS OUTPUT: sacrebleu with a bootstrapped 95 % interval, its signature kept.
measure_bleu() {
    printf '$ sacrebleu %s -i %s -m bleu --confidence --format json %s\n' "$1" "$2" "$SACREBLEU_OPTIONS" >&2
    sacrebleu "$1" -i "$2" -m bleu --confidence --format json $SACREBLEU_OPTIONS >"$3.part"
    mv "$3.part" "$3"
}

# interval SCORE MEAN HALF-WIDTH: the score, and the ends of its interval as sacrebleu gives it.
interval() { awk -v s="$1" -v m="$2" -v h="$3" 'BEGIN { print s, m - h, m + h }'; }

# record_speeds BENCH ROW...: how many times as fast as the first model of a nmtprune bench the others are.
record_speeds() {
    local bench=$1 number=1 row found
    shift
    for row in "$@"; do
        found=$(pick "$bench" models.$number.timings.0.ratio.{median,low,high})
        # shellcheck disable=SC2086 # three numbers
        record "$row" speedup $found
        record "$row" predicted-speedup "$(pick "$bench" models.$number.timings.0.predicted)"
        number=$((number + 1))
    done
}
