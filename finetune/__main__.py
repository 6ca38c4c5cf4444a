"""`python -m finetune` is `finetune`."""

from finetune.cli.main import main

if __name__ == "__main__":
    main()
