"""One export from MODEL to bundles: `export` has the steps, the others one step each."""
