# WMT14 EN-DE, 2.5 million pairs, Transformer base: 144 heads.
# shellcheck shell=bash disable=SC2034
SETS='train=mtdata:Statmt-europarl_wmt13-7-deu-eng,Statmt-commoncrawl_wmt13-1-deu-eng,Statmt-news_commentary_wmt18-13-deu-eng
      val=sacrebleu:wmt13 newstest2014=sacrebleu:wmt14/full'
SOURCE_LANG=en TARGET_LANG=de MTDATA_LANGS=eng-deu
BATCH_TOKENS=25000
TRAIN_LIMIT=2500000

LEARNING_RATE=0.0007 WARMUP_UPDATES=16000 ADAM_BETAS='(0.9, 0.997)'
BASE_UPDATES=100000
FINE_TUNE_UPDATES=75000 FINE_TUNE_RATE=0.0002 # about 30 epochs
SEEDS='1 2 3'
PERCENTS='25 35 50 55 60 75 81 87'
DISK_GB=40 DISK_WHY='a corpus of 2 GB as text, pieces and binary, 33 checkpoints of 1 GB'

smoke_settings() { SEEDS='1 2' PERCENTS='50 87'; }
