#!/usr/bin/env bash
# Michel et al. 2019, tables 1, 2 and 5, figures 2 to 4: heads of a pretrained model, one at a time and step by step.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"

main() {
    step corpus get_corpus
    step clean clean_corpus
    step model get_model
    MODEL=$WORK/pretrained/model.pt DATA_BIN=$WORK/pretrained
    # Tables 1 and 2 and figure 2: a head at a time, on two domains, and all heads of a module but one; table 5: on a test set.
    score_heads ablate newstest2013
    score_heads ablate-mtnt mtnt
    score_heads only newstest2013 --all-but-one --test-source "$(text newstest2014 "$SOURCE_LANG")" \
        --test-reference "$(text newstest2014 "$TARGET_LANG")"
    step table-1 record_figures 1 ablation "$WORK/results/ablate.json" ablate
    step tables-2-5 record_figures 1 only_head "$WORK/results/only.json" only
    step figure-2 compare_domains
    # Figure 3: all kinds together, by importance and by the scores of table 1; figure 4: each kind by itself.
    sweep sweep --order importance --order "$WORK/results/ablate.json"
    sweep kinds --kinds encoder --kinds decoder --kinds cross
}

# text SET LANGUAGE
text() { printf '%s/corpus/test.%s.%s' "$WORK" "$1" "$2"; }

# measured_on SET: raw text, tokenized and split as the pretrained model wants it.
measured_on() {
    printf '%s ' --data-bin "$DATA_BIN" --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG" \
        --source "$(text "$1" "$SOURCE_LANG")" --reference "$(text "$1" "$TARGET_LANG")" \
        --bpe-codes "$DATA_BIN/bpecodes" --tokenizer moses $(search_options)
}

# score_heads NAME SET [OPTION...]
score_heads() {
    local name=$1 set=$2
    shift 2
    step "score-$name" run nmtprune score "$MODEL" $(measured_on "$set") --metric "$METRIC" "$@" --resume \
        -o "$WORK/results/$name.json"
}

compare_domains() {
    run nmtprune compare "$WORK/results/ablate.json" "$WORK/results/ablate-mtnt.json" --format json \
        >"$WORK/results/domains.json"
    record_figures 1 correlation "$WORK/results/domains.json" domains
}

# sweep NAME OPTION...: heads go by tenths; importance is measured on newstest2009 to 2012, as in the paper.
sweep() {
    step "sweep-$1" do_sweep "$@"
}

do_sweep() {
    local name=$1 language
    shift
    for language in "$SOURCE_LANG" "$TARGET_LANG"; do
        cat "$WORK"/corpus/test.newstest20{09,10,11,12}."$language" >"$WORK/corpus/importance.$language"
    done
    run nmtprune greedy "$MODEL" $(measured_on newstest2013) --metric "$METRIC" "$@" --resume \
        --importance-normalize layer --importance-source "$WORK/corpus/importance.$SOURCE_LANG" \
        --importance-reference "$WORK/corpus/importance.$TARGET_LANG" -o "$WORK/$name"
    record_figures 1 curves "$WORK/$name/curve.json" "$name"
}

# get_model: pretrained/, with a checkpoint, its dictionaries and its BPE codes.
get_model() {
    rm -rf "$WORK/pretrained"
    mkdir "$WORK/pretrained"
    if [ -n "$SMOKE" ]; then
        train_pretrained
    elif [ -n "$DATA" ]; then
        local file
        for file in $PRETRAINED_FILES; do take "$file" "$WORK/pretrained"; done
    else
        download "$PRETRAINED" "$WORK" "$PRETRAINED_FILES"
        run tar -xjf "$WORK/${PRETRAINED##*/}" --strip-components 1 -C "$WORK/pretrained"
        rm "$WORK/${PRETRAINED##*/}"
    fi
}

# train_pretrained: a tiny model with Moses tokens and subword-nmt codes, as the pretrained one has them.
train_pretrained() {
    local folder=$WORK/pretrained name language
    mkdir "$folder/tokens" "$folder/pieces"
    for name in train val; do
        for language in "$SOURCE_LANG" "$TARGET_LANG"; do
            sacremoses -l "$language" -q tokenize -x <"$WORK/corpus/$name.$language" >"$folder/tokens/$name.$language"
        done
    done
    cat "$folder"/tokens/train.* | run subword-nmt learn-bpe -s "$VOCABULARY" >"$folder/bpecodes"
    for name in train val; do
        for language in "$SOURCE_LANG" "$TARGET_LANG"; do
            run subword-nmt apply-bpe -c "$folder/bpecodes" <"$folder/tokens/$name.$language" >"$folder/pieces/$name.$language"
        done
    done
    run fairseq-preprocess --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG" --joined-dictionary \
        --trainpref "$folder/pieces/train" --validpref "$folder/pieces/val" --destdir "$folder/bin"
    DATA_BIN=$folder/bin do_train pretrained "$BASE_UPDATES" $(shape_options) $(schedule "$LEARNING_RATE" "$WARMUP_UPDATES")
    mv "$WORK/models/pretrained.pt" "$folder/model.pt"
    cp "$folder"/bin/dict.*.txt "$folder/"
}

run_recipe "$@"
