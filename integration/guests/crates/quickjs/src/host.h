/* A small host for QuickJS: what a script has beside the language. A script is a module; what is not a global of every
 * host comes from the module `host`, one file of C for each part of it. */
#pragma once
#include <quickjs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNT(list) ((int)(sizeof(list) / sizeof(list)[0]))

/* The exports of the module `host`, by the file that has them. */
extern const JSCFunctionListEntry console_exports[], file_exports[], socket_exports[], loop_exports[];
extern const int console_exports_len, file_exports_len, socket_exports_len, loop_exports_len;

/* console.c: `console`, and text as bytes. */
void console_globals(JSContext *ctx);
/* Says on standard error what was thrown, and ends the program with 1. */
_Noreturn void die_of(JSContext *ctx, JSValueConst thrown);

/* loop.c: timers, and waiting for descriptors. */
void loop_globals(JSContext *ctx);
/* Runs until nothing can happen any more. */
void loop_run(JSContext *ctx);
/* Wakes who waits for a descriptor that is about to be closed. */
void loop_forget(JSContext *ctx, int fd);

/* files.c */
/* The whole file with a NUL behind it, or NULL with errno set. */
char *read_whole(const char *path, size_t *len);
/* Throws an `Error` whose `code` is this errno. */
JSValue throw_errno(JSContext *ctx, int error, const char *what);

/* What a script may write somewhere: a string as UTF-8, or a Uint8Array. */
typedef struct {
    const uint8_t *data;
    size_t len;
    const char *string;
} Bytes;
bool bytes_of(JSContext *ctx, JSValueConst value, Bytes *bytes);
void bytes_free(JSContext *ctx, Bytes *bytes);
