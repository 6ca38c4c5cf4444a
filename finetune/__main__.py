"""`python -m finetune`, and the installed command `finetune`."""

from finetune.cli.heavy_imports import import_quickly


def main() -> None:
    import_quickly("finetune.cli.main")  # Ctrl-C ends the program also while this is imported
    from finetune.cli.main import main

    main()


if __name__ == "__main__":
    main()
