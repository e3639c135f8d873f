"""The command line: parses, then calls. Ends with 0, with 2 for a user's mistake, with 1 when something broke, with 75
when it was asked to leave."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dstrain import __version__
from dstrain.config.errors import Left, LostRank, SaidElsewhere, Trouble, TroubleElsewhere, UserError
from dstrain.config.os_errors import FULL, in_one_line
from dstrain.guard.bell import LEFT, Bell
from dstrain.guard.spoken import speak_on


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parsed(argv)
    try:
        return arguments.act(arguments) or 0
    except SaidElsewhere:
        return 2
    except TroubleElsewhere:
        return 1
    except Trouble as trouble:
        print(f"dstrain: {trouble}", file=sys.stderr)
        return 1
    except Left as left:
        if os.environ.get("RANK", "0") == "0":
            print(f"dstrain: {left}", file=sys.stderr)
        return LEFT
    except LostRank as lost:
        print(f"dstrain: rank {os.environ.get('RANK', 0)}: {lost}", file=sys.stderr)
        return 1
    except UserError as mistake:
        print(f"dstrain: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough: what is left is cleaning up
        # With more ranks the launcher ends them all, and the scripts in launch/ say so.
        if os.environ.get("WORLD_SIZE", "1") == "1":
            print("\ndstrain: stopped by Ctrl-C; the same command goes on from the last checkpoint, or else from the "
                  "start", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left (as with `| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (*FULL, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE):
            raise
        print(f"dstrain: {in_one_line(error, 'go on')}", file=sys.stderr)
        return 1


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse wants all positional arguments in one place; users mix options and overrides."""
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        parser.exit(2)
    arguments, rest = parser.parse_known_args(argv)
    overrides = [argument for argument in rest if not argument.startswith("-") and hasattr(arguments, "overrides")]
    if len(overrides) < len(rest):
        parser.error(f"unknown: {' '.join(argument for argument in rest if argument not in overrides)} (see --help)")
    if overrides:
        arguments.overrides = [*arguments.overrides, *overrides]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dstrain",
                                     description="Train Transformers from scratch: one recipe, any shape.")
    parser.add_argument("--version", action="version", version=f"dstrain {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    for add in (_add_training, _add_doctor, _add_submit, _add_status, _add_eval_and_generate, _add_translate,
                _add_solve, _add_export, _add_records):
        add(commands)
    return parser


def _add_training(commands) -> None:
    _add(commands, "recipes", _recipes, "list the named runs", "dstrain recipes")
    command = _add(commands, "train", _train, "train a recipe, or go on with it",
                   "dstrain train quickstart run.steps=50\n  deepspeed --num_accelerators 2 launch/train.py quickstart")
    _add_recipe(command)
    command.add_argument("--deepspeed_config", metavar="FILE",
                         help="DeepSpeed JSON; wins over the recipe's engine.config")
    command.add_argument("--deepspeed", action="store_true",
                         help="accepted for the deepspeed launcher's sake; always on")
    command.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    command.add_argument("--fresh", action="store_true", help="start over: remove what the run folder has of this run")
    command.add_argument("--yes", action="store_true", help="with --fresh: do not ask")

    command = _add(commands, "prepare", _prepare, "tokenize a recipe's data once, for machines without text or network",
                   "dstrain prepare quickstart --out prepared/quickstart\n"
                   "  dstrain train quickstart data.prepared=prepared/quickstart")
    _add_recipe(command)
    command.add_argument("--out", metavar="DIR", help="where to write; default: data.prepared, or prepared/RUN_NAME")


def _add_doctor(commands) -> None:
    command = _add(commands, "doctor", _doctor, "prove the recipe's training before the GPU hours",
                   "dstrain doctor quickstart\n  dstrain doctor my.yaml optim.lr=1e-3 --only padding,gradient\n"
                   "  dstrain doctor my.yaml --device cuda\n  dstrain doctor --self-test")
    _add_recipe(command, needed=False)
    command.add_argument("--deepspeed_config", metavar="FILE",
                         help="DeepSpeed JSON; wins over the recipe's engine.config")
    command.add_argument("--only", metavar="PROOF,...", action="append",
                         help="run these proofs alone (may be repeated)")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu",
                         help="cpu (default): CPU ranks, wherever this runs; cuda: this machine's GPUs, with the "
                              "kernels that training will run")
    command.add_argument("--self-test", action="store_true",
                         help="plant each known fault and see its proof fail; without RECIPE on quickstart")


def _add_submit(commands) -> None:
    command = _add(commands, "submit", _submit, "check a job, write its batch script and submit it to Slurm",
                   "dstrain submit quickstart --nodes 2 --gpus 8 --time 12:00:00 --dry-run\n"
                   "  dstrain submit my.yaml --nodes 2 --gpus 8 --sweep optim.lr=1e-3,2e-3,3e-3")
    _add_recipe(command)
    command.add_argument("--nodes", default="1", metavar="N", help="default: 1; 2-4: any number between, at each start")
    command.add_argument("--gpus", required=True, metavar="G", help="of a node, one rank each; 0: CPU ranks")
    command.add_argument("--ranks-per-node", metavar="R", help="with --gpus 0 (default: 1)")
    command.add_argument("--cpus", metavar="N", help="cores of a node (default: 4 a rank, or what a node has)")
    command.add_argument("--memory", metavar="SIZE", help="of a node, such as 64G (default: the partition's)")
    command.add_argument("--time", metavar="TIME", help="limit of one job, as Slurm writes it (default: 12:00:00, or "
                                                        "the partition's where that is less)")
    command.add_argument("--partition", metavar="NAME", help="default: the cluster's")
    command.add_argument("--account", metavar="NAME", help="who pays (default: yours)")
    command.add_argument("--launcher", choices=("deepspeed", "srun"), default="deepspeed",
                         help="what starts the ranks: deepspeed on each node (default), or srun, one task a rank")
    command.add_argument("--sweep", metavar="KEY=A,B,C", help="one run a value, as a job array")
    command.add_argument("--chain", default="1", metavar="N", help="N jobs one after the other, where time is limited")
    command.add_argument("--signal-before", default="120", metavar="SECONDS",
                         help="so long before its time limit a job saves and leaves (default: 120)")
    command.add_argument("--shared", action="store_true",
                         help="the nodes see this machine's disk (it serves it to them)")
    command.add_argument("--require-doctor", action="store_true",
                         help="refuse a recipe that `dstrain doctor` has not proven as it is now")
    command.add_argument("--dry-run", action="store_true", help="check and print the script; write and submit nothing")


def _add_status(commands) -> None:
    command = _add(commands, "status", _status, "show how runs stand: step, loss, speed, time left, job, checkpoint",
                   "dstrain status\n  dstrain status runs/quickstart")
    command.add_argument("run", nargs="*", metavar="RUN",
                         help="run folder, or several; without one: what trains, waits or ended today in runs/")
    command.add_argument("--all", action="store_true", help="every run in runs/")


def _add_eval_and_generate(commands) -> None:
    command = _add(commands, "eval", _eval, "score a run on its validation data", "dstrain eval runs/quickstart")
    _add_run(command)

    command = _add(commands, "generate", _generate, "continue a prompt",
                   'dstrain generate runs/quickstart --prompt "def main("')
    _add_run(command)
    command.add_argument("--prompt", action="append",
                         help="text to continue (may be repeated); default: the recipe's log.prompt")
    command.add_argument("--max-new-tokens", type=int, default=200, metavar="N",
                         help="at most so many tokens (default: 200)")
    command.add_argument("--temperature", type=float, default=0.0, metavar="X",
                         help="0 (default): always the best token, which small models repeat; 0.8: livelier; "
                              "1: as the model says")
    command.add_argument("--top-k", type=int, default=0, metavar="K",
                         help="draw among the K best tokens (default: 0, among all); needs a temperature")
    command.add_argument("--top-p", type=float, default=1.0, metavar="P",
                         help="draw among the fewest best tokens that have probability P together (default: 1, among "
                              "all); needs a temperature")
    command.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X",
                         help="make tokens that are there already less likely: 1 (default) not at all; 1.2: somewhat")
    command.add_argument("--stop", action="append", default=[], metavar="TEXT",
                         help="end before this text (may be repeated)")
    command.add_argument("--seed", type=int, help="of the sampling (default: 0); needs a temperature")
    command.add_argument("--speculative", action="store_true",
                         help="let a moe model's further heads draft tokens, and check them all in one pass: the same "
                              "tokens at temperature 0, the same distribution else, sooner")


def _add_translate(commands) -> None:
    command = _add(commands, "translate", _translate, "translate standard input line by line with a trained translator",
                   "dstrain translate runs/multi30k-en-de --beam 5 < source.en > target.de")
    _add_run(command)
    command.add_argument("--beam", type=int, default=5, metavar="N",
                         help="beginnings that are kept at each step (default: 5); 1 takes the best token each time")
    command.add_argument("--length-penalty", type=float, default=1.0, metavar="A",
                         help="the sum of log p is divided by ((5 + length) / 6) to this power (default: 1); smaller "
                              "ones favour short translations; needs a beam")
    command.add_argument("--batch", type=int, default=64, metavar="N",
                         help="lines that are translated together (default: 64): memory decides; it changes no line")
    command.add_argument("--average", type=int, default=1, metavar="N",
                         help="use the mean of the weights of the last N checkpoints (default: 1)")


def _add_solve(commands) -> None:
    command = _add(commands, "solve", _solve, "answer the queries of grid puzzles with a trained solver",
                   "dstrain solve runs/arc-quickstart --tasks evaluation/ --out submission.json --pictures pictures")
    _add_run(command)
    command.add_argument("--tasks", required=True, metavar="FILES",
                         help="a folder of .json tasks, a file, or a pattern; where answers are known, they are scored")
    command.add_argument("--out", default="submission.json", metavar="FILE",
                         help="what to write, in ARC's submission form: two attempts a query (default: "
                              "submission.json); what stands there is replaced")
    command.add_argument("--views", type=int, metavar="N",
                         help="answer each query in so many views, turned, mirrored and recoloured as in training; the "
                              "two answers that most of them agree on are the attempts (default: 8; 1: one attempt)")
    command.add_argument("--adapt", type=int, metavar="STEPS",
                         help="train adapters for so many steps on each task's demonstrations before it is answered, "
                              "and take them off again")
    command.add_argument("--adapter-rank", type=int, metavar="N", help="with --adapt: their rank (default: 8)")
    command.add_argument("--adapt-lr", type=float, metavar="LR", help="with --adapt: learning rate (default: 1e-3)")
    command.add_argument("--pictures", metavar="DIR",
                         help="draw each task there as a PNG: demonstrations, query, attempts and truth")


def _add_export(commands) -> None:
    command = _add(commands, "export", _export, "write a run's model for other software (family lm only)",
                   "dstrain export runs/quickstart --to hf --out quickstart-hf")
    _add_run(command)
    command.add_argument("--to", required=True, choices=("hf",),
                         help="hf: a Hugging Face model folder, which transformers loads")
    command.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not hold anything yet")


def _add_records(commands) -> None:
    command = _add(commands, "verify", _verify, "check every byte of a run's checkpoints",
                   "dstrain verify runs/quickstart")
    command.add_argument("run", metavar="RUN", help="run folder, or one checkpoint in it")

    command = _add(commands, "postmortem", _postmortem, "say why a run ended, and what to do",
                   "dstrain postmortem runs/quickstart")
    command.add_argument("run", metavar="RUN", help="run folder")

    command = _add(commands, "replay", _replay, "show the rows of one step again, and check them against the ledger",
                   "dstrain replay runs/quickstart --step 12")
    command.add_argument("run", metavar="RUN", help="run folder")
    command.add_argument("--step", type=int, required=True, metavar="N", help="optimizer step, from 1")
    command.add_argument("--rows", type=int, default=4, metavar="N", help="how many rows to print (default: 4)")


def _postmortem(arguments: argparse.Namespace) -> int:
    from dstrain.commands.postmortem import postmortem_command
    return postmortem_command(Path(arguments.run))


def _recipes(arguments: argparse.Namespace) -> None:
    from dstrain.config.load import recipe_names
    for name, description in recipe_names():
        print(f"{name:<20} {description}")


def _train(arguments: argparse.Namespace) -> None:
    bell = Bell()
    bell.listen()  # before the imports: numpy and torch start threads
    speak_on()
    from dstrain.commands.train import train_command
    train_command(arguments.recipe, arguments.overrides, arguments.deepspeed_config, arguments.fresh, arguments.yes,
                  bell)


def _doctor(arguments: argparse.Namespace) -> int:
    if arguments.recipe is None and not arguments.self_test:
        raise UserError("doctor: name a recipe (`dstrain recipes` lists them), or give --self-test")
    from dstrain.commands.doctor import doctor_command
    only = [name.strip() for names in arguments.only or () for name in names.split(",")]
    return doctor_command(arguments.recipe or "quickstart", arguments.overrides, arguments.deepspeed_config, only,
                          arguments.device, arguments.self_test)


def _prepare(arguments: argparse.Namespace) -> int:
    from dstrain.commands.prepare import prepare_command
    return prepare_command(arguments.recipe, arguments.overrides, arguments.out)


def _submit(arguments: argparse.Namespace) -> int:
    from dstrain.commands.submit import submit_command
    return submit_command(arguments)


def _status(arguments: argparse.Namespace) -> int:
    from dstrain.commands.status import status_command
    if arguments.run and arguments.all:
        raise UserError(f"--all: every run in runs/, but {arguments.run[0]} is named, too; leave one of them out")
    return status_command(arguments.run, arguments.all)


def _eval(arguments: argparse.Namespace) -> None:
    from dstrain.commands.use import eval_command
    eval_command(Path(arguments.run), arguments.checkpoint)


def _generate(arguments: argparse.Namespace) -> int:
    from dstrain.commands.generate import generate_command
    return generate_command(Path(arguments.run), arguments.checkpoint, arguments.prompt, arguments.max_new_tokens,
                            arguments.temperature, arguments.top_k, arguments.top_p, arguments.repetition_penalty,
                            arguments.stop, arguments.seed, arguments.speculative)


def _translate(arguments: argparse.Namespace) -> int:
    from dstrain.commands.translate import translate_command
    return translate_command(Path(arguments.run), arguments.checkpoint, arguments.beam, arguments.length_penalty,
                             arguments.batch, arguments.average)


def _solve(arguments: argparse.Namespace) -> int:
    from dstrain.commands.solve import solve_command
    return solve_command(Path(arguments.run), arguments.checkpoint, arguments.tasks, Path(arguments.out),
                         arguments.views, None if arguments.pictures is None else Path(arguments.pictures),
                         arguments.adapt, arguments.adapter_rank, arguments.adapt_lr)


def _export(arguments: argparse.Namespace) -> None:
    from dstrain.commands.export import export_command
    export_command(Path(arguments.run), arguments.checkpoint, Path(arguments.out))


def _replay(arguments: argparse.Namespace) -> int:
    from dstrain.commands.replay import replay_command
    return replay_command(Path(arguments.run), arguments.step, arguments.rows)


def _verify(arguments: argparse.Namespace) -> int:
    from dstrain.commands.verify import verify_command
    return verify_command(Path(arguments.run))


def _add(commands, name: str, act, what: str, example: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".",
                                  epilog=f"example:\n  {example}",
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(act=act)
    return command


def _add_recipe(command: argparse.ArgumentParser, needed: bool = True) -> None:
    command.add_argument("recipe", metavar="RECIPE", nargs=None if needed else "?",
                         help="a name from `dstrain recipes`, or the path of a YAML file")
    command.add_argument("overrides", nargs="*", metavar="section.key=value",
                         help="changes to the recipe, such as run.steps=50")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="run folder, such as runs/quickstart")
    command.add_argument("--checkpoint", default="latest", metavar="WHICH",
                         help="latest (default), best, or a step such as 1000")


if __name__ == "__main__":
    sys.exit(main())
