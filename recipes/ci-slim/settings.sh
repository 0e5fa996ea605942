# A production pipeline: a model of Multi30k stands for yours.
# shellcheck shell=bash disable=SC2034
ADDRESS=https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw
SETS="train=$ADDRESS/train.{lang}.gz val=$ADDRESS/val.{lang}.gz test_2016_flickr=$ADDRESS/test_2016_flickr.{lang}.gz"
SOURCE_LANG=en TARGET_LANG=de
VOCABULARY=6000 MAX_WORDS=1000 MAX_RATIO=1000

ENCODER_LAYERS=3 DECODER_LAYERS=3 HEADS=8 HEAD_DIM=16 WIDTH=128 FEED_FORWARD=256
MODEL_OPTIONS='--share-all-embeddings --encoder-normalize-before --decoder-normalize-before'
DROPOUT=0.15
LEARNING_RATE=0.003 WARMUP_UPDATES=400 CLIP_NORM=1.0
BATCH_TOKENS=1024 MAX_TOKENS=1024
FP16=no
BASE_UPDATES=3600
SAVE_UPDATES=400
TOOLS=ct2-fairseq-converter # of the package ctranslate2, which export needs

# What the pipeline may cost, as pipeline.sh takes it.
MAX_DROP=1.0 MIN_SPEEDUP=1.0 MAX_SIZE=99
DISK_GB=1 DISK_WHY='checkpoints of 30 MB'

# A tiny model that has hardly learned loses nothing, and gains less time than the machine is noisy.
smoke_settings() { BASE_UPDATES=60 MAX_DROP=5 MIN_SPEEDUP=0.1; }
