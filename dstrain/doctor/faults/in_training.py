"""The faults of data, loss, masks and runs, each planted into the code that trains and judged by one proof."""

from __future__ import annotations

from dstrain.doctor.faults import of_data, of_loss, of_masks, of_runs
from dstrain.doctor.faults.fault import Fault
from dstrain.doctor.faults.planting import fault

DATA = (
    fault("labels not shifted", "100 % accuracy within one epoch: the model sees what it predicts", "labels",
          of_data.labels_not_shifted),
    fault("no start token in rows", "the first token of an answer is never learned", "labels", of_data.no_start_token),
    fault("ends never scored", "ignore_index is the pad's id, which is the end's: generation never stops", "labels",
          of_data.ends_never_scored),
    fault("padding scored in rows", "the loss looks better, for constant padding is easy", "labels",
          of_data.padding_scored),
    fault("no end between documents", "documents, or targets, follow each other without an end", "labels",
          of_data.documents_joined),
    fault("stride 1", "the window moves by one token: as many times too many steps an epoch as it is long", "labels",
          of_data.stride_of_one, role="segments"),
    fault("validation windows overlap", "an evaluation scores most targets twice", "labels",
          of_data.validation_windows_overlap, role="segments"),
    fault("last validation rows dropped", "drop_last in a validation", "labels",
          of_data.unfinished_validation_rows_dropped, role="segments"),
    fault("validated twice", "each rank goes through all of the validation data", "labels", of_data.validated_twice),
    fault("shuffled with replacement", "some documents come twice in an epoch, others never", "labels",
          of_data.shuffled_with_replacement),
    fault("sources beside other targets", "two files out of step by a line", "labels",
          of_data.sources_beside_other_targets, role="source"),
    Fault("evaluation text trained on", "46 % of the questions had their answer in what was trained on", "overlap",
          of_data.evaluation_text_trained_on),
)

MASKS = (
    fault("future seen", "a causal mask that is none: losses far too good", "future", of_masks.future_seen),
    fault("documents not separated", "what stands before in the row is attended", "documents",
          of_masks.documents_not_separated, role="segments"),
    fault("segments swallowed", "forward(ids, **kwargs): where documents begin never arrives", "arguments",
          of_masks.segments_swallowed, role="segments"),
    fault("segments not handed on", "the model is right, what the engine calls is not", "arguments",
          of_masks.trainee_swallows_segments, role="segments"),
    fault("source lengths swallowed", "the source's mask never arrives", "arguments",
          of_masks.source_lengths_swallowed, role="source"),
    fault("padding attended across", "the encoder has its mask, the decoder looks at the source without one",
          "padding", of_masks.padding_attended_across, role="source"),
    fault("padded width counts", "a row's output depends on how far its batch is padded", "padding",
          of_masks.padded_width_counts),
    fault("prompts mixed", "a continuation hangs on its neighbours", "continuations", of_masks.rows_mixed),
    fault("generate attends to padding", "masked in training, not in generate()", "continuations",
          of_masks.generation_attends_padding),
    fault("cached positions", "a short prompt's new tokens are placed behind its padding", "continuations",
          of_masks.cached_positions_of_the_row, role="segments"),
)

LOSS = (
    fault("mean of means, in a step", "each micro-batch by its own count, then averaged", "gradient",
          of_loss.mean_of_means),
    fault("mean of means, by ranks", "the same recipe on more ranks is another curve", "same_curve",
          of_loss.mean_of_means),
    fault("mean of means, logged", "what is optimized is right, what is written down is not", "logged",
          of_loss.logged_mean_of_means),
    fault("sum over accumulation", "87.97 is logged for 11.00, and the gradients are eight times too large", "logged",
          of_loss.sum_over_micro_batches),
    fault("sum over accumulation, in the gradient", "clipping hides it", "gradient", of_loss.sum_over_micro_batches),
    fault("moving average logged", "the curve looks smooth, and lags", "logged", of_loss.logged_smoothed),
    fault("valid_loss or train_loss", "a validation loss of 0.0 is taken for none", "logged",
          of_loss.validation_loss_or_training_loss),
    fault("average of batches", "a validation averages batches of unequal size", "logged", of_loss.average_of_batches),
    fault("NaN on two ranks", "a curve that is not finite on some shape", "same_curve", of_loss.nan_on_two_ranks),
    fault("dropout by generator", "what is dropped hangs on ranks and micro-batches", "same_curve",
          of_loss.dropout_by_generator),
    fault("last norm unused", "a parameter that no gradient reaches", "gradient", of_loss.last_norm_unused),
    fault("frozen on the way to bf16", "49 of 810 parameters never move", "gradients",
          of_loss.frozen_on_the_way_to_bf16),
    fault("scheduler never stepped", "the loss stands at ln(vocabulary), and warm-up was blamed", "schedule",
          of_loss.scheduler_never_stepped),
    fault("scheduler never stepped, to the end", "the same over all steps of the run", "curve",
          of_loss.scheduler_never_stepped),
    fault("scheduler one step late", "the peak is missed by a step", "schedule", of_loss.scheduler_one_step_late),
    fault("scheduler stepped for each micro-batch", "the warm-up is over as many times too early", "schedule",
          of_loss.scheduler_stepped_for_each_micro_batch),
    fault("validation leaves its mode", "no dropout from the first validation on", "mode",
          of_loss.validation_leaves_its_mode),
    fault("generation leaves its mode", "no dropout from the first sample on", "mode",
          of_loss.generation_leaves_its_mode),
    fault("mode lost by an exception", "restored behind the work, but not in a `finally`", "mode",
          of_loss.mode_lost_by_an_exception),
    fault("all modules set to training", "model.train() as the way back wakes what was kept in evaluation mode",
          "mode", of_loss.all_modules_set_to_training),
)

RUNS = (
    fault("place of the prefetched", "rows that were made ready but not trained on are lost by a resume", "resume",
          of_runs.place_of_the_prefetched),
    fault("moments not restored", "a bump in the curve behind each resume", "resume", of_runs.moments_not_restored),
    fault("update count not restored", "moments corrected as if they were new", "resume",
          of_runs.update_count_not_restored),
    fault("validation changes what follows", "its mode stays: the run that was not validated is another", "resume",
          of_loss.validation_leaves_its_mode),
    fault("recipe not in the checkpoint", "a checkpoint that was copied away builds no model", "rebuild",
          of_runs.recipe_not_in_checkpoint),
    fault("recipe where nobody looks", "saved, but not where resume looks", "rebuild",
          of_runs.recipe_where_nobody_looks),
    fault("tokenizer of another run", "only a name is saved", "rebuild", of_runs.tokenizer_of_another_run),
)

FAULTS: tuple[Fault, ...] = (*DATA, *MASKS, *LOSS, *RUNS)
