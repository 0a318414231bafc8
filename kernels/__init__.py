"""What a codec computes: `reference` (numpy, the specification), `vector` (torch, the same bits), `dct` and `native` (C++)."""
