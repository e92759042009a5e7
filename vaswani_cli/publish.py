"""`vaswani publish`: a model's folder to the Hub, where it must load without this package."""

import argparse
from pathlib import Path

EPILOG = """examples:
  vaswani publish runs/demo jane/english-german --dry-run
  vaswani publish runs/demo jane/english-german --private
  vaswani publish runs/gpt jane/gpt --export transformers
  vaswani publish runs/demo jane/english-german --space space

Sent are weights, configuration, code, tokenizer, generation settings, .eval_results and the card with its pictures;
nothing else, and nothing that names a path, a user or a token of this machine. Then everything is downloaded again and
loaded in a process without this package: "published" means that its outputs are the same. A stopped command goes on
when it is given again. The token is that of `hf auth login`, or HF_TOKEN. card.yaml in the folder says what only you
know, such as `license: apache-2.0`. --dry-run needs no network and no token. --space also writes a folder with
`vaswani demo` and the model in it (extra `app`): `hf upload NAME DIR --repo-type space` makes a Space of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani publish`."""
    parser.description = "Publish a model's folder on the Hub, with its card, and check that it loads anywhere."
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="a model's folder")
    parser.add_argument("repo", metavar="REPO", help="a repository's name: NAMESPACE/NAME, or NAME of your own")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--export", metavar="FORMAT", help="transformers: publish what `vaswani export` writes")
    parser.add_argument("--dry-run", action="store_true", help="show the files, and the card of a new repository")
    parser.add_argument("--space", metavar="DIR", help="write a Space that shows the model into this new folder")


def run(arguments: argparse.Namespace) -> int:
    """Publishes, or shows what would be sent."""
    from vaswani_transformer.publishing.publish import planned, publish

    if arguments.space and arguments.dry_run:
        raise ValueError(f"--dry-run writes nothing; got --space {arguments.space} with it")
    if arguments.dry_run:
        with planned(arguments.model, arguments.repo, export=arguments.export) as contents:
            for name, content in contents.items():
                size = content.stat().st_size if isinstance(content, Path) else len(content)
                print(f"{size:>15,}  {name}")
            card = contents["README.md"]
            assert isinstance(card, bytes)
            print(f"\n{card.decode()}")
        return 0
    if arguments.space:  # before anything is sent: it may be refused
        from vaswani_transformer.viewing.demo_space import write_space

        print(write_space(arguments.model, arguments.space))
    found = publish(arguments.model, arguments.repo, private=arguments.private, export=arguments.export)
    print(
        f"published {found.repo}, commit {found.commit[:8]}: it loads without this package, and its outputs differ by "
        f"{found.difference:.1e} of the largest"
    )
    return 0
