# What a recipe's settings.sh may leave as it is. Words of fairseq's options, where there is one.
# shellcheck shell=bash disable=SC2034

# Sets: NAME=ORIGIN, separated by blanks, train and val among them; all others are test sets. An origin is
# mtdata:ID[,ID...], sacrebleu:SET, or an address with {lang} where the language stands.
SETS=''
SOURCE_LANG='' TARGET_LANG='' MTDATA_LANGS=''
TRAIN_LIMIT=0        # training pairs, drawn at random; 0 takes all
MAX_WORDS=100        # of a training sentence
MAX_RATIO=3          # between the lengths of its two sides
VOCABULARY=32000     # SentencePiece pieces at most, one vocabulary for both languages
SEED=1

ENCODER_LAYERS=6 DECODER_LAYERS=6 HEADS=8 HEAD_DIM=64 WIDTH=512 FEED_FORWARD=2048
MODEL_OPTIONS='--share-all-embeddings'
DROPOUT=0.1 LABEL_SMOOTHING=0.1
LEARNING_RATE=0.0007 WARMUP_UPDATES=4000 ADAM_BETAS='(0.9, 0.98)' CLIP_NORM=0
BATCH_TOKENS=32000   # target tokens of an update, over all GPUs
MAX_TOKENS=4000      # of these, as many at once on each
BASE_UPDATES=100000
FINE_TUNE_UPDATES=20000 FINE_TUNE_RATE=0.0002
SAVE_UPDATES=2000    # a killed training loses at most so many
FP16=yes             # on GPUs

BEAM=5 LENPEN=1 TRANSLATE_OPTIONS='--max-len-a 1.2 --max-len-b 10'
BASE_ROW=base        # what changes are from
SACREBLEU_OPTIONS='' # of sacrebleu

BENCH_OPTIONS='--batch-size 32 --repeat 5'

TOOLS='' DISK_GB=20 DISK_WHY='corpus and checkpoints'
