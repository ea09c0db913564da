"""The command `curv`: one file per subcommand."""
