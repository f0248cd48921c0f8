"""One export from MODEL to bundles: `export` has all steps, each other module has one."""
