# The smoke's corpus and model: tiny, but with the layers and heads of the paper, so that every plan fits.
# shellcheck shell=bash disable=SC2034
SMOKE_TRAIN=600 SMOKE_VAL=40 SMOKE_TEST=40
TRAIN_LIMIT=500
VOCABULARY=300
HEAD_DIM=4 WIDTH=32 FEED_FORWARD=32
LEARNING_RATE=0.004 WARMUP_UPDATES=10
BATCH_TOKENS=1000 MAX_TOKENS=1000
BASE_UPDATES=20 FINE_TUNE_UPDATES=6 SAVE_UPDATES=10 FINE_TUNE_RATE=0.001
BEAM=2 TRANSLATE_OPTIONS='--max-len-a 0 --max-len-b 12'
BENCH_OPTIONS='--batch-size 32 --repeat 2'
DISK_GB=1 DISK_WHY='a generated corpus and tiny models'
export OMP_NUM_THREADS=1
# Models of a smoke have hardly learned anything, which commands that compare would refuse.
export NMTPRUNE_{BENCH,CHECK,SCORE,GREEDY,L0,LOTTERY}_ALLOW_BAD_BASELINE=1
