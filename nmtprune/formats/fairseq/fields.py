"""Every field of fairseq's `cfg.model` and `cfg.task` (or of the legacy `args`) that may change what is computed.

Three lists, as data: what nmtprune reads, what has no effect on what a trained model computes, and what must be off. A
field that stands in none of them and that stock fairseq does not have either is named by `inspect` and in remarks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nmtprune.formats.fairseq import language_tokens
from nmtprune.formats.fairseq.containers import is_off, is_truth_value, quoted

SUPPORTED, WITHOUT_EFFECT, REFUSED = "supported", "without effect", "refused"

_STACKS = ("encoder", "decoder")

_OTHER = """
    adadelta_eps adadelta_rho adafactor_eps adam_betas adam_eps adamax_betas adamax_eps aim_repo
    aim_run_hash alignment_lambda all_gather_list_size amp amp_batch_retries amp_init_scale amp_scale_window
    anneal_eps average_sync azureml_logging batch_size batch_size_valid bce_pos_weight beam beam_mt
    bert_score_lang best_checkpoint_metric beta1 bf16 block_lr block_momentum bmuf bpe bpe_add_prefix_space
    bpe_cased bpe_codes bpe_merges bpe_separator bpe_vocab bpe_vocab_file broadcast_buffers bucket_cap_mb
    buffer_size can_sum checkpoint checkpoint_shard_count checkpoint_suffix clip_norm clip_threshold
    combine_valid_subsets common common_eval constraints context_window continue_once cpu cpu_offload
    criterion ctc_weight curriculum data_buffer_size dataset ddp_backend ddp_comm_hook debug_param_names
    decay_rate decay_steps decoding_format device_id disable_validation discrete_duration discrete_f0
    distributed_backend distributed_init_method distributed_no_spawn distributed_num_procs distributed_port
    distributed_rank distributed_training distributed_world_size diverse_beam_groups diverse_beam_strength
    diversity_rate duration_loss_weight dynamic_groups edge_unit_loss_weight ema ema_decay ema_fp32
    ema_seed_model ema_start_update ema_update_freq empty_cache_freq end_learning_rate eos eos_token
    epoch2lr eval_lm fast_stat_sync final_lr_scale find_unused_parameters finetune_from_model
    fix_batches_to_gpus fixed_validation_seed force_anneal fp16 fp16_adam_stats fp16_init_scale
    fp16_no_flatten_grads fp16_scale_tolerance fp16_scale_window fp32_reduce_scatter gen_subset
    general_unit_loss_weight generation global_sync_iter gpt2_encoder_json gpt2_vocab_bpe
    gradient_as_bucket_view grouped_shuffling groups guided_attention_loss_sigma heartbeat_timeout
    hold_steps ignore_prefix_size ignore_unused_valid_subsets infonce init_lr_scale input interactive
    iter_decode_eos_penalty iter_decode_force_max_iter iter_decode_max_iter iter_decode_with_beam
    iter_decode_with_external_reranker keep_best_checkpoints keep_interval_updates
    keep_interval_updates_pattern keep_last_epochs label_smoothing lamb_betas lamb_eps latency_avg_type
    latency_avg_weight latency_gather_method latency_update_after latency_var_type latency_var_weight lenpen
    lenpen_mt lm_path lm_weight load_checkpoint_on_all_dp_ranks localsgd_frequency log_file log_format
    log_interval log_keys loss_weights lr lr_deacy_period lr_decay lr_patience lr_period_updates
    lr_scheduler lr_shrink lr_threshold main_and_cross_weights masked_lm_only match_source_len max_epoch
    max_len_a max_len_a_mt max_len_b max_len_b_mt max_lr max_tokens max_tokens_valid max_update
    max_valid_steps maximize_best_checkpoint_metric memory_efficient_bf16 memory_efficient_fp16 min_len
    min_loss_scale min_lr model model_overrides model_parallel_size momentum moses_no_dash_splits
    moses_no_escape nbest no_beamable_mm no_bias_correction no_early_stop no_epoch_checkpoints
    no_last_checkpoints no_progress_bar no_repeat_ngram_size no_reshard_after_forward no_save
    no_save_optimizer_state no_seed_provided not_fsdp_flatten_parameters nprocs_per_node nsp_loss_weight
    num_shards num_workers on_cpu_convert_precision optimization optimizer optimizer_overrides
    output_word_probs output_word_stats pad path patience phase_ratio pipeline_balance pipeline_checkpoint
    pipeline_chunks pipeline_decoder_balance pipeline_decoder_devices pipeline_devices
    pipeline_encoder_balance pipeline_encoder_devices pipeline_model_parallel plasma_path post_process power
    pred_masked_weight pred_nomask_weight prefix_size print_alignment print_step profile
    quantization_config_path quiet ranking_head_name rdrop_alpha relative_step replace_unk report_acc_and_f1
    report_accuracy report_mcc report_pearson_and_spearman required_batch_size_multiple reset_dataloader
    reset_logging reset_lr_scheduler reset_meters reset_optimizer restore_file results_path retain_dropout
    retain_dropout_modules retain_iter_history sacrebleu sacrebleu_char_level sacrebleu_lowercase
    sacrebleu_tokenizer sampling sampling_topk sampling_topp save_dir save_interval save_interval_updates
    save_predictions scale_parameter score_reference scoring seed sentence_avg sentencepiece_alpha
    sentencepiece_enable_sampling sentencepiece_model sentencepiece_model_path shard_id shrink_min
    skip_invalid_size_inputs_valid_test skip_remainder_batch slowmo_base_algorithm slowmo_momentum
    softmax_batch stop_min_lr stop_time_hours store_ema suppress_crashes t_mult task temperature
    tensorboard_logdir threshold_loss_scale tokenizer total_num_update underlying_criterion unk unkpen
    unnormalized update2lr update_epoch_batch_itr update_freq update_ordered_indices_seed use_bmuf
    use_guided_attention_loss use_nbm use_old_adam use_plasma_view use_sharded_state user_dir valid_subset
    validate_after_updates validate_interval validate_interval_updates wandb_project warmup_init
    warmup_init_lr warmup_iterations warmup_steps warmup_updates weight_decay wer_args wer_char_level
    wer_kenlm_model wer_lexicon wer_lm_weight wer_lowercase wer_remove_punct wer_sil_weight wer_tokenizer
    wer_word_score write_checkpoints_asynchronously zero_infinity zero_sharding
"""

OTHER_OPTIONS = frozenset(_OTHER.split())
"""Of fairseq 0.12: training, optimizers, schedules, criteria, subwords, generation."""

_OLD = """
    distributed_wrapper exclude_self_target lazy_load local_rank lrshrink max_sentences
    max_sentences_valid raw_text remove_bpe sample_without_replacement unk_replace_dict workers
"""

OLD_OPTIONS = frozenset(_OLD.split())
"""Of earlier versions."""


def _of_stacks(meanings: Mapping[str, str]) -> dict[str, str]:
    return {f"{stack}_{name}": text.format(stack) for stack in _STACKS for name, text in meanings.items()}


READ_FLAGS: Mapping[str, str] = {
    **_of_stacks({
        "normalize_before": "{} layers normalize before each block, not after it",
        "learned_pos": "learned positions in the {}",
    }),
    "share_decoder_input_output_embed": "the output layer is the decoder's table of embeddings",
    "share_all_embeddings": "one table for source, target and output",
    "merge_src_tgt_embed": "likewise, of a merged dictionary",
    "no_token_positional_embeddings": "no positions",
    "no_scale_embedding": "embeddings are not multiplied by the root of their width",
    "layernorm_embedding": "a norm behind the embeddings",
    "no_decoder_final_norm": "no norm behind the last layer of a pre-norm decoder",
    "no_cross_attention": "decoder layers without cross-attention",
    "cross_self_attention": "decoder self-attention sees the encoder's states too (Peitz et al. 2019)",
    "adaptive_input": "a language model's input in bands, the rarer the words the narrower",
    "tie_adaptive_weights": "adaptive input and softmax share their tables",
    "tie_adaptive_proj": "adaptive input and softmax share their projections",
    "untie_weights_roberta": "masked words have an output layer of their own, not the table of embeddings",
    "scale_attn": "NormFormer's norm behind self-attention, where its tensors are in the file",
    "scale_fc": "NormFormer's norm inside the feed-forward layers, likewise",
    "scale_resids": "NormFormer's factor of residual connections, likewise",
}  # fmt: skip
"""Fields that are on or off."""

READ: Mapping[str, str] = {
    "arch": "architecture, whose defaults count for what the file does not say",
    **_of_stacks({
        "embed_dim": "width of the {}",
        "ffn_embed_dim": "width inside its feed-forward layers",
        "layers": "number of its layers",
        "attention_heads": "heads of its modules",
        "layers_to_keep": "the layers of the file that are used, renumbered",
    }),
    "decoder_input_dim": "width of the embeddings of a language model",
    "decoder_output_dim": "width in front of the output layer",
    "activation_fn": "function of feed-forward layers: relu, gelu, gelu_accurate, gelu_fast, tanh, linear",
    "adaptive_softmax_cutoff": "ends of the bands of an adaptive softmax",
    "adaptive_softmax_factor": "how much narrower a band is than the one before",
    "adaptive_input_cutoff": "ends of the bands of an adaptive input",
    "adaptive_input_factor": "how much narrower a band is than the one before",
    "max_source_positions": "longest source, in tokens",
    "max_target_positions": "longest translation, in tokens",
    "tokens_per_sample": "longest text of a language model where max_target_positions is not set",
    "max_positions": "longest text of RoBERTa's class, in tokens",
    "pooler_activation_fn": "function of the heads that give labels",
    "decoder_final_norm": "old language models: whether a norm follows the last layer",
    "no_tie_adaptive_proj": "old language models: the opposite of tie_adaptive_proj",
    "nmtprune_base_arch": "slim checkpoints: architecture before the cut",
    "nmtprune_heads": "slim checkpoints: stored heads per module",
    "nmtprune_neurons": "slim checkpoints whose feed-forward layers have several widths: stored neurons per layer",
    "nmtprune_lineage": "slim checkpoints: which heads, neurons and layers of which model they have",
    "nmtprune_gates": "checkpoints with gates: how the gates work",
    "encoder_head_dim": "slim checkpoints: width of an encoder head",
    "decoder_head_dim": "slim checkpoints: width of a decoder head",
}  # fmt: skip

TRAINING_ONLY: Mapping[str, str] = {
    "dropout": "training only",
    "attention_dropout": "training only",
    "activation_dropout": "training only",
    "relu_dropout": "training only",
    "adaptive_softmax_dropout": "training only",
    "pooler_dropout": "training only",
    "mha_reg_scale_factor": "training only",
    "ffn_reg_scale_factor": "training only",
    "load_checkpoint_heads": "which heads fairseq loads",
    **_of_stacks({"layerdrop": "training only", "embed_path": "initial embeddings: those of the file count"}),
    "checkpoint_activations": "memory of training",
    "offload_activations": "memory of training",
    "min_params_to_wrap": "memory of training",
    "quant_noise_pq_block_size": "means nothing without quant_noise_pq",
    "base_sublayers": "means nothing without base_layers",
    "base_shuffle": "means nothing without base_layers",
    "character_filters": "means nothing without character_embeddings",
    "character_embedding_dim": "means nothing without character_embeddings",
    "char_embedder_highway_layers": "means nothing without character_embeddings",
    "export": "which implementation of the norms is used",
    "tpu": "which device",
    "alignment_heads": "which attention a translation's alignment is read from, and training",
    "alignment_layer": "likewise",
    "full_context_alignment": "likewise",
    **dict.fromkeys(
        (
            *("gate", "gate_init", "gate_temperature", "gate_stretch", "gate_lr_scale", "gate_freeze_updates"),
            *("l0_kinds", "l0_groups", "l0_weight", "l0_warmup_updates", "gate_costs", "output_scaling", "test_gate"),
            *("target_heads", "gate_step", "gate_only_updates", "min_heads_per_module"),
        ),
        "options of a training of gates: what counts is in nmtprune_gates",
    ),
}

MUST_BE_OFF: Mapping[str, str] = {
    "scale_heads": "a learned factor per head",
    "spectral_norm_classification_head": "a spectral norm in the heads that give labels",
    "char_inputs": "character embeddings",
    "character_embeddings": "character embeddings",
    "base_layers": "mixture of experts",
    "quant_noise_pq": "quantization noise",
    "quant_noise_scalar": "quantization noise",
    "encoder_xformers_att_config": "xformers attention",
    "decoder_xformers_att_config": "xformers attention",
}
"""Model fields that make something that nmtprune does not compute, and what that is."""

REMOVED_IN_TRAINING: Mapping[str, str] = {
    "mha_heads_to_keep": "heads that fairseq removes when training starts",
    "ffn_blocks_to_remove": "neurons that fairseq removes when training starts",
}
"""Fields of RoBERTa's class that must be -1: the other sizes in the settings are those before."""

_UNPREFIXED = (
    "embed_dim", "ffn_embed_dim", "layers", "attention_heads", "normalize_before", "learned_pos", "layers_to_keep",
    "xformers_att_config", "input_dim", "output_dim", "pq", "scalar", "encoder", "decoder", "quant_noise",
)  # fmt: skip
"""Names that fairseq takes for those of both stacks, or for a group of fields, over what the others say."""

TASK_READ: Mapping[str, str] = {
    "source_lang": "source language",
    "target_lang": "target language",
    "left_pad_source": "padding goes before the source (no effect but on rounding)",
    "left_pad_target": "padding goes before the target (no effect but on rounding)",
    "truncate_source": "longer sources are cut to max_source_positions, as in training",
    "classification_head_name": "the head that gives the labels, where the file has several",
    "regression_target": "the head gives numbers, not labels",
    "num_classes": "labels of the head that the task trains",
    "init_token": "symbol before a text",
    "separator_token": "symbol before the second text of a pair",
    "shorten_method": "what is done to texts longer than the positions",
}

TOKENS_READ: Mapping[str, str] = {
    "langs": "languages, in the order of their tokens",
    "lang_dict": "name of a file that lists them, in the folder of the data",
    "lang_pairs": "directions that the model was trained on",
    "encoder_langtok": "whose language a token of the source names: src or tgt",
    "decoder_langtok": "a token of the target names its language",
    "lang_tok_style": "how a language is spelled as a token: __de__ (multilingual) or [de] (mbart)",
    "lang_tok_replacing_bos_eos": "tokens stand in the place of </s>",
    "langtoks": "where tokens stand, data set by data set: those of main count",
    "langtoks_specs": "for which data sets languages have tokens",
    "extra_data": "denoised texts add <mask> to the dictionaries",
}
"""Task fields that are read for the tasks with language tokens."""

TASK_WITHOUT_EFFECT: Mapping[str, str] = {
    "data": "where the data were",
    "load_alignments": "training only",
    "upsample_primary": "training only",
    "num_batch_buckets": "padding of batches",
    "required_seq_len_multiple": "padding of batches",
    "train_subset": "name of the training set",
    "dataset_impl": "the format of data is recognized",
    **dict.fromkeys(
        (
            *("eval_bleu", "eval_bleu_args", "eval_bleu_detok", "eval_bleu_detok_args", "eval_tokenized_bleu"),
            *("eval_bleu_remove_bpe", "eval_bleu_print_samples"),
        ),
        "what training reports",
    ),
    "freeze": "training of gates only",
    **dict.fromkeys(("source_dict", "target_dict", "fixed_dictionary"), "dictionaries are those of the data folder"),
    **dict.fromkeys(
        (
            *("sampling_method", "sampling_temperature", "sampling_weights", "sampling_weights_from_file"),
            *("virtual_epoch_size", "virtual_data_size", "extra_lang_pairs", "shuffle_instance"),
            "enable_reservsed_directions_shared_datasets",
        ),
        "which sentences training takes",
    ),
    "keep_inference_langtok": "what fairseq-generate prints",
    "no_shuffle": "the order of texts",
    "add_prev_output_tokens": "for models with a decoder",
    **dict.fromkeys(
        (
            *("mask_prob", "leave_unmasked_prob", "random_token_prob", "freq_weighted_replacement"),
            *("mask_whole_words", "mask_multiple_length", "mask_stdev", "skip_masking"),
            *("include_target_tokens", "include_index", "multilang_sampling_alpha"),
        ),
        "which words training masks",
    ),
    **dict.fromkeys(
        (
            *("sample_break_mode", "output_dictionary_size", "self_target", "future_target", "past_target"),
            *("add_bos_token", "shorten_data_split_list", "pad_to_fixed_length", "pad_to_fixed_bsz"),
        ),
        "texts of a language model, to which nmtprune gives none",
    ),
}

TASK_MUST_BE_OFF: Mapping[str, str] = {
    "prepend_bos": "a symbol before every sentence",
    "prepend_bos_src": "a symbol before every source",
    "append_source_id": "a language token behind every sentence",
    "langs": "a language token in every sentence",
    "lang_pairs": "several language pairs",
    "encoder_langtok": "a language token in every source",
    "decoder_langtok": "a language token in every target",
    "enable_lang_ids": "numbers of languages as input of the model",
    "d2v2_multi": "texts of data2vec",
}
"""Task fields under which sentences look otherwise than those of the task; TOKENS_READ are read for some tasks."""


def field_table() -> Iterator[tuple[str, str, str]]:
    """Every field with its list and what it means, for the manual."""
    lists = (
        (SUPPORTED, {**READ, **READ_FLAGS}), (SUPPORTED, TASK_READ), (WITHOUT_EFFECT, TRAINING_ONLY),
        (REFUSED, REMOVED_IN_TRAINING),
        (SUPPORTED, {field: f"{meaning} (multilingual tasks only)" for field, meaning in TOKENS_READ.items()}),
        (WITHOUT_EFFECT, TASK_WITHOUT_EFFECT), (REFUSED, MUST_BE_OFF),
        (REFUSED, {field: what for field, what in TASK_MUST_BE_OFF.items() if field not in TOKENS_READ}),
        (REFUSED, dict.fromkeys(_UNPREFIXED, "fairseq would take it for the field of both stacks")),
    )  # fmt: skip
    for name, fields in lists:
        yield from ((field, name, meaning) for field, meaning in fields.items())


@dataclass(frozen=True)
class _Known:
    names: frozenset[str]

    def unknown(self, given: Mapping[str, Any]) -> list[str]:
        return [f"{name} = {quoted(value)}" for name, value in given.items() if self.is_unknown(name, value)]

    def is_unknown(self, name: str, value: Any) -> bool:
        return name not in self.names and not name.startswith(("_", "nmtprune_")) and not is_off(value)


_KNOWN = _Known(frozenset(field for field, _, _ in field_table()) | OTHER_OPTIONS | OLD_OPTIONS)


def model_faults(given: Mapping[str, Any]) -> list[str]:
    """Fields of the model that nmtprune does not compute with, or whose values mean nothing."""
    faults = _that_are_on(MUST_BE_OFF, given)
    faults += [
        f"{name} {quoted(given[name])} ({what})"
        for name, what in REMOVED_IN_TRAINING.items()
        if given.get(name) not in (None, -1)
    ]
    faults += [
        f"{name} {quoted(given[name])} (without encoder_ or decoder_ in front: fairseq takes it for both)"
        for name in _UNPREFIXED
        if given.get(name) is not None and not _says_the_same(name, given)
    ]
    return faults + [
        f"{name} is {quoted(given[name])}, neither True nor False"
        for name in READ_FLAGS
        if not is_truth_value(given.get(name), text=False)
    ]


def task_faults(given: Mapping[str, Any]) -> list[str]:
    """Fields of the task under which sentences are not those of plain translation, or whose values mean nothing."""
    read = TOKENS_READ if given.get("_name") in language_tokens.TASKS else {}
    faults = _that_are_on({name: what for name, what in TASK_MUST_BE_OFF.items() if name not in read}, given)
    flags = ("left_pad_source", "left_pad_target", "truncate_source")
    return faults + [
        f"{name} is {quoted(given[name])}, neither True nor False"
        for name in flags
        if not is_truth_value(given.get(name), text=True)
    ]


def unknown(*sections: Mapping[str, Any]) -> list[str]:
    """Fields that are set and that neither nmtprune nor stock fairseq knows, each once, with their values."""
    return list(dict.fromkeys(field for given in sections for field in _KNOWN.unknown(given)))


def _that_are_on(names: Mapping[str, str], given: Mapping[str, Any]) -> list[str]:
    return [f"{name} {quoted(given[name])} ({what})" for name, what in names.items() if not is_off(given.get(name))]


def _says_the_same(name: str, given: Mapping[str, Any]) -> bool:
    names = [f"{stack}_{name}" for stack in _STACKS if f"{stack}_{name}" in given]
    return bool(names) and all(given[own] == given[name] for own in names)
