#!/usr/bin/env bash
# Behnke & Heafield 2020, tables 4 to 9: a distilled student plays the lottery with its encoder heads; a Marian student.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"
# shellcheck source=../lib/behnke.sh
. "$LIB/behnke.sh"

main() {
    prepare_corpus
    teach
    local lottery=(--pretrain-updates "$PRETRAIN" --prune-updates "$PRUNE" --kinds encoder
        --converge-updates "$BASE_UPDATES" --patience "$PATIENCE")
    # Tables 4 and 5: three heads an iteration; the same shapes with fresh weights.
    play_lottery lottery "$(test_subsets)" "${lottery[@]}" --heads-per-iteration "$HEADS_PER_ITERATION" \
        --until "$UNTIL" --converge-iterations "${ITERATIONS// /,}" --control reinit
    evaluate base "$(ticket lottery 0)"
    evaluate_tickets lottery '' '' $ITERATIONS
    evaluate_tickets lottery reinit- -reinit $ITERATIONS
    # Table 7b: fewer heads from the start.
    HEADS=4 train_model half
    evaluate half "$WORK/models/half.pt"
    HEADS=1 train_model one
    evaluate one "$WORK/models/one.pt"
    # Tables 8 and 9: six heads an iteration.
    play_lottery pushy "$(test_subsets)" "${lottery[@]}" --heads-per-iteration "$PUSHY_HEADS" \
        --until "$PUSHY_UNTIL" --converge-iterations "${PUSHY_ITERATIONS// /,}"
    ROW_OF_1=${PUSHY_ROW_OF_1:-} evaluate_tickets pushy pushy- '' $PUSHY_ITERATIONS
    compare_students
    marian_student
}

# teach: a teacher translates the training text; what it says becomes the students' target side, in data-bin.
teach() {
    # shellcheck disable=SC2097,SC2098 # the head size is of the teacher's own width
    ENCODER_LAYERS=$TEACHER_LAYERS DECODER_LAYERS=$TEACHER_LAYERS WIDTH=$TEACHER_WIDTH HEADS=$TEACHER_HEADS \
        HEAD_DIM=$((TEACHER_WIDTH / TEACHER_HEADS)) FEED_FORWARD=$TEACHER_FEED_FORWARD DROPOUT=0.1 \
        LABEL_SMOOTHING=0.1 LEARNING_RATE=$TEACHER_RATE BASE_UPDATES=$TEACHER_UPDATES train_model teacher
    step teach translate_training_text
    step taught-binarize binarize_taught
    DATA_BIN=$WORK/taught-bin
}

translate_training_text() {
    run nmtprune translate "$WORK/models/teacher.pt" --data-bin "$WORK/data-bin" --sentencepiece "$WORK/spm.model" \
        --source "$WORK/corpus/train.$SOURCE_LANG" --beam "$TEACHER_BEAM" $TRANSLATE_OPTIONS >"$WORK/taught.$TARGET_LANG.part"
    mv "$WORK/taught.$TARGET_LANG.part" "$WORK/taught.$TARGET_LANG"
}

# binarize_taught: the teacher's text in the place of the training set's target side; validation keeps real references.
binarize_taught() {
    rm -rf "$WORK/taught" "$WORK/taught-bin"
    mkdir "$WORK/taught"
    ln -s "$WORK"/corpus/* "$WORK/taught/"
    ln -sf "$WORK/taught.$TARGET_LANG" "$WORK/taught/train.$TARGET_LANG"
    split_pieces "$WORK/taught" "$WORK/taught-pieces"
    binarize "$WORK/taught-pieces" "$WORK/taught-bin" --srcdict "$WORK/data-bin/dict.$SOURCE_LANG.txt"
}

compare_students() {
    local rows=("base=$(ticket lottery 0)" "$(row_of '' "$FASTEST")=$(ticket lottery "$FASTEST")"
        "half=$WORK/models/half.pt" "one=$WORK/models/one.pt") iteration
    for iteration in $PUSHY_ITERATIONS; do
        rows+=("$(ROW_OF_1=${PUSHY_ROW_OF_1:-} row_of pushy- "$iteration")=$(ticket pushy "$iteration")")
    done
    compare_speed students test "${rows[@]}"
}

# marian_student: the paper's own decoder; scored, slimmed by the scores, and translated with.
marian_student() {
    step marian-train train_marian
    step marian-score run nmtprune score "$WORK/marian/model.npz" --source "$WORK/corpus/val.$SOURCE_LANG" \
        --reference "$WORK/corpus/val.$TARGET_LANG" --metric loss --kinds encoder --resume -o "$WORK/marian/scores.json"
    step marian-plan run nmtprune plan "$WORK/marian/model.npz" --scores "$WORK/marian/scores.json" \
        --lowest "$MARIAN_REMOVED" --kinds encoder --force -o "$WORK/plans/marian.json"
    step marian-slim run nmtprune slim "$WORK/marian/model.npz" --plan "$WORK/plans/marian.json" --force \
        -o "$WORK/marian/slim.npz"
    step marian-evaluate evaluate_marian
}

train_marian() {
    local gpus=(--cpu-threads 1)
    [ "$GPUS" -eq 0 ] || gpus=(--devices $(seq 0 $((GPUS - 1))))
    mkdir -p "$WORK/marian"
    cp "$WORK/spm.model" "$WORK/marian/vocab.spm" # Marian goes by the suffix
    # A model is there when Marian was interrupted: it goes on by itself.
    # shellcheck disable=SC2086 # options are words
    run pymarian train --type transformer --model "$WORK/marian/model.npz" \
        --train-sets "$WORK/corpus/train.$SOURCE_LANG" "$WORK/taught.$TARGET_LANG" \
        --vocabs "$WORK/marian/vocab.spm" "$WORK/marian/vocab.spm" --tied-embeddings-all \
        --enc-depth "$ENCODER_LAYERS" --dec-depth "$DECODER_LAYERS" --transformer-decoder-autoreg rnn \
        --dec-cell ssru --transformer-tied-layers $(seq 1 "$DECODER_LAYERS" | sed 's/.*/1/') \
        --transformer-heads "$HEADS" --dim-emb "$WIDTH" --transformer-dim-ffn "$FEED_FORWARD" \
        --learn-rate "$LEARNING_RATE" --lr-warmup "$WARMUP_UPDATES" --lr-decay-inv-sqrt "$WARMUP_UPDATES" \
        --optimizer-params 0.9 0.98 1e-09 --after-batches "$MARIAN_UPDATES" --save-freq "$SAVE_UPDATES" \
        --seed "$SEED" --overwrite $MARIAN_BATCH "${gpus[@]}"
}

evaluate_marian() {
    local model
    for model in model slim; do
        measure_model "marian-$model" "marian-$model" 1 "$WORK/marian/$model.npz" \
            --vocabs "$WORK/marian/vocab.spm" "$WORK/marian/vocab.spm" --beam "$BEAM"
    done
}

run_recipe "$@"
