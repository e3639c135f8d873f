"""The faults of data, loss, masks and runs, each planted into the code that trains and judged by one proof."""

from __future__ import annotations

from dstrain.config.arc import PuzzleData
from dstrain.config.schema import Data
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER
from dstrain.doctor.faults import of_chance, of_data, of_experts, of_loss, of_masks, of_puzzles, of_runs, of_update
from dstrain.doctor.faults.fault import Fault
from dstrain.doctor.faults.planting import Needs, fault

DOCUMENTS = Needs("documents in its rows", lambda recipe: isinstance(recipe.data, Data))
TEXT = Needs("text", lambda recipe: not isinstance(recipe.data, PuzzleData))
PUZZLES = Needs("puzzles", lambda recipe: isinstance(recipe.data, PuzzleData))
SHOWN = Needs("demonstrations", lambda recipe: PUZZLES.there(recipe) and recipe.model.kind != ENCODER_DECODER)
SEQUENCE = Needs("demonstrations in its rows", lambda recipe: PUZZLES.there(recipe) and recipe.model.kind == DECODER)
CONTEXT = Needs("demonstrations beside the query", lambda recipe: PUZZLES.there(recipe)
                and recipe.model.kind == CHAMPION)
EXPERTS = Needs("routed experts", lambda recipe: hasattr(recipe.model, "experts"))
BALANCE_TERM = Needs("balance term", lambda recipe: EXPERTS.there(recipe) and recipe.objective.balance_weight > 0
                     and recipe.objective.has_balance_term)
ROUTER_TERM = Needs("router's term", lambda recipe: EXPERTS.there(recipe) and recipe.objective.z_weight > 0)
MOVING_BIAS = Needs("bias that moves", lambda recipe: EXPERTS.there(recipe) and recipe.objective.has_bias)
FURTHER_HEADS = Needs("further heads", lambda recipe: getattr(recipe.model, "next_tokens", 1) > 1)
SEQUENTIAL_HEADS = Needs("sequential heads", lambda recipe: FURTHER_HEADS.there(recipe)
                         and recipe.model.further == "sequential")

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
          of_data.stride_of_one, needs=DOCUMENTS),
    fault("validation windows overlap", "an evaluation scores most targets twice", "labels",
          of_data.validation_windows_overlap, needs=DOCUMENTS),
    fault("last validation rows dropped", "drop_last in a validation", "labels",
          of_data.unfinished_validation_rows_dropped, needs=DOCUMENTS),
    fault("validated twice", "each rank goes through all of the validation data", "labels", of_data.validated_twice),
    fault("shuffled with replacement", "some documents come twice in an epoch, others never", "labels",
          of_data.shuffled_with_replacement),
    fault("sources beside other targets", "two files out of step by a line", "labels",
          of_data.sources_beside_other_targets, role="source"),
    fault("documents joined in rows", "the feed numbers all documents of a row alike: a right mask is told nothing",
          "labels", of_data.segments_joined, needs=DOCUMENTS),
    fault("documents joined in batches", "the same, seen by the model", "documents", of_data.segments_joined,
          needs=DOCUMENTS),
    fault("positions go on", "places are counted through the row, not from where a document begins", "labels",
          of_data.positions_go_on, needs=DOCUMENTS),
    fault("rows begin anew", "a row in the midst of a document has a start token for its first input", "labels",
          of_data.rows_begin_anew, needs=DOCUMENTS),
    fault("second epoch halved", "documents that come in the first epoch alone", "labels",
          of_data.second_epoch_halved, needs=DOCUMENTS),
    Fault("evaluation text trained on", "46 % of the questions had their answer in what was trained on", "overlap",
          of_data.evaluation_text_trained_on),
    Fault("evaluation text reworded", "half of the evaluation was trained on, with a word in 40 changed", "overlap",
          of_data.evaluation_text_reworded),
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
    fault("cached slots lost", "right for prompts of a few words, wrong from the twentieth token on", "continuations",
          of_masks.cache_far_slots_lost),
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
    fault("later micro-batches count more", "by 2 %: within what a bound for bf16 once allowed", "gradient",
          of_loss.later_micro_batches_count_more),
    fault("later micro-batches count more, logged", "the same, beside what is written down", "logged",
          of_loss.later_micro_batches_count_more),
    fault("norms without gradient", "norms are small: the whole gradient is off by 2 %", "gradient",
          of_loss.norms_without_gradient),
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

UPDATE = (
    fault("ascent", "the loss rises from the first step, or a sign is lost twice and it only stands", "update",
          of_update.ascent),
    fault("betas of a default", "the recipe's are read, and others are used", "update", of_update.other_betas),
    fault("norms decayed", "one group for all parameters: norms and biases shrink with the rest", "update",
          of_update.norms_decayed),
    fault("clip ignored", "a key that nothing reads: the first bad batch goes through as it is", "update",
          of_update.clip_ignored),
    fault("step number behind", "the loop's count is three late: lr and dropout of steps ago", "loop",
          of_update.step_number_behind),
    fault("first micro-batch repeated", "a step's rows are its first ones, several times", "loop",
          of_update.first_micro_batch_repeated),
)

CHANCE = (
    fault("mean not kept", "dropout without 1 / (1 - rate): evaluation sees sums that training never had", "chance",
          of_chance.mean_not_kept),
    fault("half as much dropped", "a rate that is applied to a half of what it is meant for", "chance",
          of_chance.half_as_much_dropped),
    fault("same mask each step", "dropout becomes a smaller network", "chance", of_chance.same_mask_each_step),
    fault("same mask for each row", "one mask for the batch, expanded", "chance", of_chance.same_mask_for_each_row),
    fault("masks of no seed", "runs of other seeds drop the same", "chance", of_chance.masks_of_no_seed),
    fault("never shuffled", "the data's own order, epoch by epoch: a curve with its seasons", "chance",
          of_chance.never_shuffled),
    fault("weights of no seed", "runs of other seeds begin alike: their spread is none", "chance",
          of_chance.weights_of_no_seed),
    fault("weights of sources ignored", "each source gives as much as the others", "chance",
          of_chance.source_weights_ignored),
    fault("perplexity halved", "the loss is right, what is reported of it is not", "chance",
          of_chance.perplexity_halved),
    fault("bits that are nats", "a loss a byte that nobody divided by ln 2", "chance", of_chance.bits_for_nats,
          needs=TEXT),
)

RUNS = (
    fault("place of the prefetched", "rows that were made ready but not trained on are lost by a resume", "resume",
          of_runs.place_of_the_prefetched),
    fault("place lost on one rank", "where a run stands is looked up with several ranks only", "resume",
          of_runs.place_lost_on_one_rank, needs=DOCUMENTS),
    fault("epoch not saved", "from the second epoch on a resumed run repeats the order of the first", "resume",
          of_runs.epoch_not_saved, needs=DOCUMENTS),
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

OF_EXPERTS = (
    fault("experts choose tokens", "each expert takes its best half of the batch: who comes later decides", "future",
          of_experts.experts_choose_tokens, needs=EXPERTS),
    fault("padding routed", "a router without lengths: padding takes the experts' time, and counts as their load",
          "padding", of_experts.padding_routed, needs=EXPERTS),
    fault("router's term over padding", "experts get real tokens only, the z-term all positions", "padding",
          of_experts.router_z_over_padding, needs=ROUTER_TERM),
    fault("balance over micro-batches", "shares averaged over whatever stands in a micro-batch: another term on "
          "another shape", "gradient", of_experts.balance_over_micro_batches, needs=BALANCE_TERM),
    fault("constant gates", "experts' outputs are averaged: the router learns to balance, and nothing else",
          "gradients", of_experts.gates_constant, needs=EXPERTS),
    fault("idle experts left out", "a rank without tokens skips its experts: ZeRO-3 re-applies an old gradient, or "
          "hangs", "gradients", of_experts.idle_experts_left_out, needs=EXPERTS),
    fault("bias moved in each micro-batch", "experts' biases hang on how a step is cut", "update",
          of_experts.bias_moved_in_each_micro_batch, needs=MOVING_BIAS),
    fault("bias by one rank's counts", "nobody sums them: each rank sends tokens by biases of its own", "update",
          of_experts.bias_by_one_rank, needs=MOVING_BIAS),
    fault("biases not saved", "a run that goes on sends tokens elsewhere", "rebuild", of_experts.bias_not_saved,
          needs=MOVING_BIAS),
)

OF_HEADS = (
    fault("further head one ahead", "head k learns the token k + 1 places on", "targets",
          of_experts.further_head_one_ahead, needs=FURTHER_HEADS),
    fault("further head one behind", "head k learns what head k - 1 does: it looks far better than it is", "targets",
          of_experts.further_head_one_behind, needs=FURTHER_HEADS),
    fault("further labels across documents", "each head's last labels are another document's first tokens", "targets",
          of_experts.further_labels_across_documents, needs=FURTHER_HEADS),
    fault("idle head left out", "a head whose weight is still 0 is skipped: ZeRO-3 re-applies an old gradient",
          "gradients", of_experts.idle_head_left_out, needs=FURTHER_HEADS),
    fault("further head told its target", "a sequential head gets the embedding of what it predicts", "future",
          of_experts.further_head_told_its_target, needs=SEQUENTIAL_HEADS),
)

OF_PUZZLES = (
    fault("answer among demonstrations", "46 % of the queries had their answer in their own context", "labels",
          of_puzzles.answer_among_demonstrations, needs=SHOWN),
    fault("shown outputs not scored", "a decoder learns one output a row, not several: slow, and nobody knows why",
          "labels", of_puzzles.shown_outputs_not_scored, needs=SEQUENCE),
    fault("first puzzle's shape", "a batch takes the shape of its first grid for all of them", "labels",
          of_puzzles.first_shape_for_all, needs=PUZZLES),
    fault("first puzzle's width", "where a cell stands is counted by the rows of another grid", "neighbours",
          of_puzzles.first_width_for_all, needs=CONTEXT),
    fault("padding shown", "behind demonstrations stands padding, which the query attends", "padding",
          of_puzzles.padding_shown, needs=CONTEXT),
    fault("neighbour's demonstrations", "a query is shown what belongs to the puzzle beside it", "neighbours",
          of_puzzles.neighbours_demonstrations, needs=CONTEXT),
    fault("demonstrations swallowed", "they are read, and nothing of them arrives at the query", "arguments",
          of_puzzles.demonstrations_swallowed, needs=CONTEXT),
    Fault("evaluation puzzles turned", "puzzles to validate on were trained on, turned and in other colours",
          "overlap", of_puzzles.evaluation_puzzles_turned),
)

FAULTS: tuple[Fault, ...] = (*DATA, *MASKS, *LOSS, *UPDATE, *CHANCE, *RUNS, *OF_EXPERTS, *OF_HEADS, *OF_PUZZLES)
