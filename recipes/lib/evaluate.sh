# Translations, BLEU with its interval, and figures about a model; everything lies in results/.
# shellcheck shell=bash

# evaluate ROW CHECKPOINT [SAMPLE]: BLEU on every test set, heads and parameters. Samples of a row are averaged.
evaluate() { step "evaluate-$1${3:+-$3}" do_evaluate "$1" "$2" "${3:-1}"; }

do_evaluate() {
    local row=$1 checkpoint=$2 sample=$3 name=$1-$3
    [ "$sample" != 1 ] || name=$1
    measure_model "$row" "$name" "$sample" "$checkpoint" --data-bin "$DATA_BIN" --sentencepiece "$WORK/spm.model" \
        $(search_options)
}

# measure_model ROW NAME SAMPLE CHECKPOINT OPTION...: options of nmtprune translate; files are results/NAME.*.
measure_model() {
    local row=$1 name=$2 sample=$3 checkpoint=$4 test found
    shift 4
    for test in $(test_names); do
        run nmtprune translate "$checkpoint" --source "$WORK/corpus/test.$test.$SOURCE_LANG" "$@" \
            >"$WORK/results/$name.$test.txt"
        measure_bleu "$WORK/corpus/test.$test.$TARGET_LANG" "$WORK/results/$name.$test.txt" "$WORK/results/$name.$test.json"
        found=$(pick "$WORK/results/$name.$test.json" score confidence_mean=0 confidence_var=0)
        record "$row" "$test" $(interval $found) "$sample"
    done
    nmtprune inspect "$checkpoint" --format json >"$WORK/results/$name.inspect.json"
    record_figures "$sample" inspected "$WORK/results/$name.inspect.json" "$row"
    average_of_tests "$row" "$sample"
}

# average_of_tests ROW SAMPLE: the mean of the BLEU that this step has recorded, where there are several tests.
average_of_tests() {
    local tests
    mapfile -t tests < <(test_names)
    [ ${#tests[@]} -gt 1 ] || return 0
    record "$1" average "$(awk -F '\t' -v columns=" ${tests[*]} " \
        'index(columns, " " $2 " ") { sum += $3; n++ } END { print sum / n }' "$WORK/measured/$STEP.tsv.part")" '' '' "$2"
}

# measure_bleu REFERENCE TRANSLATIONS OUTPUT: sacrebleu with a bootstrapped 95 % interval, its signature kept.
measure_bleu() {
    printf '$ sacrebleu %s -i %s -m bleu --confidence --format json --width 4 %s\n' "$1" "$2" "$SACREBLEU_OPTIONS" >&2
    sacrebleu "$1" -i "$2" -m bleu --confidence --format json --width 4 $SACREBLEU_OPTIONS >"$3.part"
    mv "$3.part" "$3"
}

# interval SCORE MEAN HALF-WIDTH: the score, and the ends of its interval as sacrebleu gives it.
interval() { awk -v s="$1" -v m="$2" -v h="$3" 'BEGIN { print s, m - h, m + h }'; }

# record_figures SAMPLE KIND FILE ROW...: figures of a file that a command of nmtprune wrote; see figures.py.
record_figures() {
    local sample=$1
    shift
    python "$LIB/figures.py" "$@" | sed "s/\$/\t$sample/" >>"$WORK/measured/$STEP.tsv.part"
}

# compare_speed NAME TEST ROW=CHECKPOINT...: the first against the others in turns; BENCH_OPTIONS are its.
compare_speed() { step "speed-$1" do_compare_speed "$@"; }

do_compare_speed() {
    local name=$1 subset=$2 row rows=() models=()
    shift 2
    for row in "$@"; do
        rows+=("${row%%=*}")
        models+=("${row#*=}")
    done
    run nmtprune bench "${models[@]}" --data-bin "$DATA_BIN" --subset "$subset" --post-process sentencepiece \
        $(search_options) $BENCH_OPTIONS --force -o "$WORK/results/bench-$name.json"
    record_figures 1 bench "$WORK/results/bench-$name.json" "${rows[@]:1}"
}
