# WMT17 EN-DE, 4.56 million pairs: transformer-big with 16, 8, 4 and 2 heads of 64; Transformer base with gates.
# shellcheck shell=bash disable=SC2034
SETS='train=mtdata:Statmt-europarl-7-deu-eng,Statmt-commoncrawl_wmt13-1-deu-eng,Statmt-news_commentary_wmt18-13-deu-eng
      val=sacrebleu:wmt13
      newstest2014=sacrebleu:wmt14/full newstest2015=sacrebleu:wmt15 newstest2016=sacrebleu:wmt16'
SOURCE_LANG=en TARGET_LANG=de MTDATA_LANGS=eng-deu
VOCABULARY=36000

BASE_UPDATES=200000
FINE_TUNE_UPDATES=200000 FINE_TUNE_RATE=0.0002 # "for as long as the baseline training"
HEAD_COUNTS='16 8 4 2'
BIG_WIDTH=1024 BIG_FEED_FORWARD=4096 BIG_RATE=0.0004
# Lambda as in the paper, the mean over 18 modules of the authors' code, and as the sum over heads that nmtprune has.
LAMBDAS='0.05:0.00278 0.10:0.00556 0.15:0.00833'
DISK_GB=60 DISK_WHY='a corpus of 4 GB as text, pieces and binary, checkpoints of 2.5 GB'

smoke_settings() {
    HEAD_COUNTS='4 2' BIG_WIDTH=32 BIG_FEED_FORWARD=32 BIG_RATE=0.004
    LAMBDAS=0.05:0.00278
}
