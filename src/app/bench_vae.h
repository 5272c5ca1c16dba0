/* d3s2 bench vae: the convolutions of the SS-VAE (R§3) layer by layer, forward and backward, at several numbers of
 * tiles on a GPU in bf16. */
#pragma once

/* argv[0] is "vae". Returns an exit code; says itself what is wrong. */
int bench_vae(int argc, char **argv);
