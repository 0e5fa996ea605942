# Multi30k EN-DE: 29 000 captions, a transformer of 3 + 3 layers and 72 heads.
# shellcheck shell=bash disable=SC2034
ADDRESS=https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw
SETS="train=$ADDRESS/train.{lang}.gz val=$ADDRESS/val.{lang}.gz
      test_2016_flickr=$ADDRESS/test_2016_flickr.{lang}.gz test_2017_flickr=$ADDRESS/test_2017_flickr.{lang}.gz"
SOURCE_LANG=en TARGET_LANG=de
VOCABULARY=6000 MAX_WORDS=1000 MAX_RATIO=1000  # nothing is left out: captions are clean

ENCODER_LAYERS=3 DECODER_LAYERS=3 HEADS=8 HEAD_DIM=16 WIDTH=128 FEED_FORWARD=256
MODEL_OPTIONS='--share-all-embeddings --encoder-normalize-before --decoder-normalize-before'
DROPOUT=0.15
LEARNING_RATE=0.003 WARMUP_UPDATES=400 CLIP_NORM=1.0
BATCH_TOKENS=1024 MAX_TOKENS=1024
FP16=no              # matrices are too small to gain from it
BASE_UPDATES=3600
FINE_TUNE_UPDATES=800 FINE_TUNE_RATE=0.001
SAVE_UPDATES=400

BASE_ROW=none        # the unpruned model, trained on for as long as the pruned ones
PERCENTS='50 25 72'
GREEDY_STEP=2 GREEDY_UNTIL=52 # heads; 18, 36 and 52, the percents, are multiples of the step
SEEDS='1 2 3'        # of random heads, at the first of the percents; the first seed elsewhere
L0_WEIGHT=0.02
BENCH_OPTIONS='--batch-size 32 --threads 1 --repeat 5'
LOTTERY_PRETRAIN=600 LOTTERY_PRUNE=250 LOTTERY_HEADS=6 LOTTERY_UNTIL=72%
LOTTERY_TICKETS='25:3 50:6 72:9' # percent removed, and the iteration after which they are
DISK_GB=1 DISK_WHY='twenty checkpoints of 30 MB'

smoke_settings() {
    PERCENTS=50 SEEDS=1
    GREEDY_STEP=18 GREEDY_UNTIL=36
    LOTTERY_PRETRAIN=4 LOTTERY_PRUNE=4 LOTTERY_HEADS=36 LOTTERY_UNTIL=50% LOTTERY_TICKETS=50:1
}
