"""Options of stock fairseq that stand in a checkpoint beside those of model and task, and change nothing there.

A model that argparse configured has every option of its training in `cfg.model`. This list tells what stock fairseq
knows from what it does not; a test compares it with the fairseq that is installed.
"""

_OTHER = """
    adadelta_eps adadelta_rho adafactor_eps adam_betas adam_eps adamax_betas adamax_eps aim_repo aim_run_hash
    alignment_lambda all_gather_list_size amp amp_batch_retries amp_init_scale amp_scale_window anneal_eps
    average_sync azureml_logging batch_size batch_size_valid bce_pos_weight beam beam_mt bert_score_lang
    best_checkpoint_metric beta1 bf16 block_lr block_momentum bmuf bpe bpe_add_prefix_space bpe_cased bpe_codes
    bpe_merges bpe_separator bpe_vocab bpe_vocab_file broadcast_buffers bucket_cap_mb buffer_size can_sum
    checkpoint checkpoint_shard_count checkpoint_suffix classification_head_name clip_norm clip_threshold
    combine_valid_subsets common common_eval constraints context_window continue_once cpu cpu_offload criterion
    ctc_weight curriculum data_buffer_size dataset ddp_backend ddp_comm_hook debug_param_names decay_rate
    decay_steps decoding_format device_id disable_validation discrete_duration discrete_f0 distributed_backend
    distributed_init_method distributed_no_spawn distributed_num_procs distributed_port distributed_rank
    distributed_training distributed_world_size diverse_beam_groups diverse_beam_strength diversity_rate
    duration_loss_weight dynamic_groups edge_unit_loss_weight ema ema_decay ema_fp32 ema_seed_model
    ema_start_update ema_update_freq empty_cache_freq end_learning_rate eos eos_token epoch2lr eval_lm
    fast_stat_sync final_lr_scale find_unused_parameters finetune_from_model fix_batches_to_gpus
    fixed_validation_seed force_anneal fp16 fp16_adam_stats fp16_init_scale fp16_no_flatten_grads
    fp16_scale_tolerance fp16_scale_window fp32_reduce_scatter gen_subset general_unit_loss_weight generation
    global_sync_iter gpt2_encoder_json gpt2_vocab_bpe gradient_as_bucket_view grouped_shuffling groups
    guided_attention_loss_sigma heartbeat_timeout hold_steps ignore_prefix_size ignore_unused_valid_subsets
    infonce init_lr_scale input interactive iter_decode_eos_penalty iter_decode_force_max_iter
    iter_decode_max_iter iter_decode_with_beam iter_decode_with_external_reranker keep_best_checkpoints
    keep_interval_updates keep_interval_updates_pattern keep_last_epochs label_smoothing lamb_betas lamb_eps
    latency_avg_type latency_avg_weight latency_gather_method latency_update_after latency_var_type
    latency_var_weight lenpen lenpen_mt lm_path lm_weight load_checkpoint_on_all_dp_ranks localsgd_frequency
    log_file log_format log_interval log_keys loss_weights lr lr_deacy_period lr_decay lr_patience
    lr_period_updates lr_scheduler lr_shrink lr_threshold main_and_cross_weights masked_lm_only match_source_len
    max_epoch max_len_a max_len_a_mt max_len_b max_len_b_mt max_lr max_tokens max_tokens_valid max_update
    max_valid_steps maximize_best_checkpoint_metric memory_efficient_bf16 memory_efficient_fp16 min_len
    min_loss_scale min_lr model model_overrides model_parallel_size momentum moses_no_dash_splits
    moses_no_escape nbest no_beamable_mm no_bias_correction no_early_stop no_epoch_checkpoints
    no_last_checkpoints no_progress_bar no_repeat_ngram_size no_reshard_after_forward no_save
    no_save_optimizer_state no_seed_provided not_fsdp_flatten_parameters nprocs_per_node nsp_loss_weight
    num_shards num_workers on_cpu_convert_precision optimization optimizer optimizer_overrides output_word_probs
    output_word_stats pad path patience phase_ratio pipeline_balance pipeline_checkpoint pipeline_chunks
    pipeline_decoder_balance pipeline_decoder_devices pipeline_devices pipeline_encoder_balance
    pipeline_encoder_devices pipeline_model_parallel plasma_path post_process power pred_masked_weight
    pred_nomask_weight prefix_size print_alignment print_step profile quantization_config_path quiet
    ranking_head_name rdrop_alpha regression_target relative_step replace_unk report_acc_and_f1 report_accuracy
    report_mcc report_pearson_and_spearman required_batch_size_multiple reset_dataloader reset_logging
    reset_lr_scheduler reset_meters reset_optimizer restore_file results_path retain_dropout
    retain_dropout_modules retain_iter_history sacrebleu sacrebleu_char_level sacrebleu_lowercase
    sacrebleu_tokenizer sampling sampling_topk sampling_topp save_dir save_interval save_interval_updates
    save_predictions scale_parameter score_reference scoring seed sentence_avg sentencepiece_alpha
    sentencepiece_enable_sampling sentencepiece_model sentencepiece_model_path shard_id shrink_min
    skip_invalid_size_inputs_valid_test skip_remainder_batch slowmo_base_algorithm slowmo_momentum softmax_batch
    stop_min_lr stop_time_hours store_ema suppress_crashes t_mult task temperature tensorboard_logdir
    threshold_loss_scale tokenizer total_num_update underlying_criterion unk unkpen unnormalized update2lr
    update_epoch_batch_itr update_freq update_ordered_indices_seed use_bmuf use_guided_attention_loss use_nbm
    use_old_adam use_plasma_view use_sharded_state user_dir valid_subset validate_after_updates
    validate_interval validate_interval_updates wandb_project warmup_init warmup_init_lr warmup_iterations
    warmup_steps warmup_updates weight_decay wer_args wer_char_level wer_kenlm_model wer_lexicon wer_lm_weight
    wer_lowercase wer_remove_punct wer_sil_weight wer_tokenizer wer_word_score write_checkpoints_asynchronously
    zero_infinity zero_sharding
"""

OTHER_OPTIONS = frozenset(_OTHER.split())
"""Of fairseq 0.12: training, optimizers, schedules, criteria, subwords, generation."""

_OLD = """
    distributed_wrapper exclude_self_target lazy_load local_rank lrshrink max_positions max_sentences
    max_sentences_valid raw_text remove_bpe sample_without_replacement unk_replace_dict workers
"""

OLD_OPTIONS = frozenset(_OLD.split())
"""Of earlier versions."""
