/* d3s2 train, encode, tokens and bench: the verbs whose work is elsewhere. */
#include "app/bench.h"
#include "app/verbs.h"
#include "train/encode.h"
#include "train/tokenize.h"
#include "train/trainer.h"

#include <stdio.h>

bool verb_train(app *a, status *st) {
    if (a->opt->command.n_args)
        return status_set(st, ST_USAGE, "train takes no argument '%.80s': say --config FILE and section.key=value",
                          a->opt->command.arg[0]);
    comm world = *a->world;
    return trainer_run(a->opt, &world, NULL, st) == ST_OK;
}

/* Digits behind the point that leave a rate three or four. */
static int digits(double rate) {
    return rate >= 100 ? 0 : rate >= 1 ? 2 : 4;
}

bool verb_encode(app *a, status *st) {
    const options *o = a->opt;
    encode_report  r = {0};
    if (o->command.n_args)
        return status_set(st, ST_USAGE, "encode takes no argument '%.80s': say encode.input=FOLDER", o->command.arg[0]);
    if (!*o->encode.input || !*o->encode.output || !*o->encode.vae)
        return status_set(st, ST_USAGE, "encode needs encode.input=SHARDS, encode.vae=RUN and encode.output=FOLDER");
    if (!encode_run(o, a->world, &r, st)) return false;
    if (o->command.dry_run) return true;
    log_info("encode: %lld samples, %lld tokens of %lld shards in %.1f s, %lld shards were there",
             (long long)r.n_samples, (long long)r.n_tiles, (long long)r.n_shards, r.seconds, (long long)r.n_skipped);
    if (r.n_samples > 0) {
        double rate = (double)r.n_samples / r.run_seconds;
        log_info("encode: %.*f samples/s, %.0f tokens/s, %.1f MB/s of shards without the start", digits(rate), rate,
                 (double)r.n_tiles / r.run_seconds, (double)r.bytes / 1e6 / r.run_seconds);
        log_info("encode: rank 0's network worked %.1f s, waited %.1f s for samples (of %d threads), %.1f s for the "
                 "file",
                 r.network_seconds, r.sample_seconds, r.threads, r.file_seconds);
    }
    return true;
}

bool verb_tokens(app *a, status *st) {
    const options  *o = a->opt;
    tokenize_report r = {0};
    if (o->command.n_args)
        return status_set(st, ST_USAGE, "tokens takes no argument '%.80s': say tokens.input=FOLDER", o->command.arg[0]);
    if (!tokenize_run(o, a->world, &r, st)) return false;
    if (o->command.dry_run) return true;
    log_info("tokens: %lld views in %.1f s%s, %.0f tokens of each", (long long)r.n_views, r.seconds,
             a->world->size > 1 ? " on all ranks" : "", r.n_mine ? (double)r.n_tokens / (double)r.n_mine : 0);
    if (r.n_mine) {
        double all = (double)r.n_views / r.run_seconds, network = (double)r.n_mine / r.network_seconds;
        log_info("tokens: %.*f views/s without the start; the network alone on one rank %.*f views/s, %.0f tokens/s",
                 digits(all), all, digits(network), network, network * (double)r.network_tokens);
        log_info("tokens: rank 0's network waited %.1f s for views (of %d threads, data.threads), %.1f s for the file",
                 r.view_seconds, r.threads, r.file_seconds);
    }
    return true;
}

bool verb_bench(app *a, status *st) {
    int code = bench_run(a->world, a->argc, a->argv);
    st->code = (status_code)code; /* it has said what went wrong */
    return code == ST_OK;
}
