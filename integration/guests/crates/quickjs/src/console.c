/* `console`; strings as bytes and back; and how an exception that nobody caught is told. */
#include "host.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Strings as they are, errors with their stacks, other objects as JSON where they have any. */
static void print(JSContext *ctx, FILE *to, JSValueConst value) {
    JSValue shown = JS_UNDEFINED;
    if (JS_IsError(value)) {
        JSValue stack = JS_GetPropertyStr(ctx, value, "stack");
        const char *lines = JS_ToCString(ctx, stack), *message = JS_ToCString(ctx, value);
        fprintf(to, "%s\n%s", message ? message : "Error", lines ? lines : "");
        JS_FreeCString(ctx, message);
        JS_FreeCString(ctx, lines);
        JS_FreeValue(ctx, stack);
        return;
    }
    if (JS_IsObject(value) && !JS_IsFunction(ctx, value))
        shown = JS_JSONStringify(ctx, value, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(shown))
        JS_FreeValue(ctx, JS_GetException(ctx)); /* a cycle, say: the plain text will do */
    size_t len;
    const char *text = JS_ToCStringLen(ctx, &len, JS_IsString(shown) ? shown : value);
    if (text)
        fwrite(text, 1, len, to);
    else
        JS_FreeValue(ctx, JS_GetException(ctx));
    JS_FreeCString(ctx, text);
    JS_FreeValue(ctx, shown);
}

static JSValue log_to(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv, int is_error) {
    FILE *to = is_error ? stderr : stdout;
    for (int n = 0; n < argc; n++) {
        if (n)
            fputc(' ', to);
        print(ctx, to, argv[n]);
    }
    fputc('\n', to);
    fflush(to);
    return JS_UNDEFINED;
}

static const JSCFunctionListEntry console_functions[] = {
    JS_CFUNC_MAGIC_DEF("log", 1, log_to, 0),   JS_CFUNC_MAGIC_DEF("info", 1, log_to, 0),
    JS_CFUNC_MAGIC_DEF("error", 1, log_to, 1), JS_CFUNC_MAGIC_DEF("warn", 1, log_to, 1),
};

void console_globals(JSContext *ctx) {
    JSValue global = JS_GetGlobalObject(ctx), console = JS_NewObject(ctx);
    JS_SetPropertyFunctionList(ctx, console, console_functions, COUNT(console_functions));
    JS_SetPropertyStr(ctx, global, "console", console);
    JS_FreeValue(ctx, global);
}

void die_of(JSContext *ctx, JSValueConst thrown) {
    fflush(stdout);
    fputs("Uncaught ", stderr);
    print(ctx, stderr, thrown);
    fputc('\n', stderr);
    exit(1);
}

bool bytes_of(JSContext *ctx, JSValueConst value, Bytes *bytes) {
    bytes->string = NULL;
    if (JS_GetTypedArrayType(value) == JS_TYPED_ARRAY_UINT8)
        return (bytes->data = JS_GetUint8Array(ctx, &bytes->len, value)) || bytes->len == 0;
    bytes->string = JS_ToCStringLen(ctx, &bytes->len, value);
    bytes->data = (const uint8_t *)bytes->string;
    return bytes->string;
}

void bytes_free(JSContext *ctx, Bytes *bytes) {
    if (bytes->string)
        JS_FreeCString(ctx, bytes->string);
}

static JSValue encode(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    Bytes bytes;
    if (!bytes_of(ctx, argv[0], &bytes))
        return JS_EXCEPTION;
    JSValue array = JS_NewUint8ArrayCopy(ctx, bytes.data, bytes.len);
    bytes_free(ctx, &bytes);
    return array;
}

static JSValue decode(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    size_t len;
    const uint8_t *data = JS_GetUint8Array(ctx, &len, argv[0]);
    return data ? JS_NewStringLen(ctx, (const char *)data, len) : JS_EXCEPTION;
}

const JSCFunctionListEntry console_exports[] = {JS_CFUNC_DEF("encode", 1, encode), JS_CFUNC_DEF("decode", 1, decode)};
const int console_exports_len = COUNT(console_exports);
