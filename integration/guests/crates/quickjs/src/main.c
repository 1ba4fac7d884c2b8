/* quickjs SCRIPT ARGUMENT...: runs a script of the image.
 *
 * Exit codes: what the script gives to `exit`, 0 at its end, 1 after an exception that nobody caught, 13 if it still
 * awaits something when nothing can happen any more. */
#include "host.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int arguments;
static char **argument;

static JSValue host_exit(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    int32_t code = 0;
    if (argc > 0 && JS_ToInt32(ctx, &code, argv[0]))
        return JS_EXCEPTION;
    exit(code);
}

static const JSCFunctionListEntry main_exports[] = {JS_CFUNC_DEF("exit", 1, host_exit)};

static JSValue text_list(JSContext *ctx, char **list, int len) {
    JSValue array = JS_NewArray(ctx);
    for (int n = 0; n < len; n++)
        JS_SetPropertyUint32(ctx, array, n, JS_NewString(ctx, list[n]));
    return array;
}

static JSValue environment(JSContext *ctx) {
    extern char **environ;
    JSValue object = JS_NewObject(ctx);
    for (char **entry = environ; entry && *entry; entry++) {
        char *equals = strchr(*entry, '=');
        JSAtom name = equals ? JS_NewAtomLen(ctx, *entry, equals - *entry) : JS_ATOM_NULL;
        if (name != JS_ATOM_NULL)
            JS_DefinePropertyValue(ctx, object, name, JS_NewString(ctx, equals + 1), JS_PROP_C_W_E);
        JS_FreeAtom(ctx, name);
    }
    return object;
}

static int fill_host(JSContext *ctx, JSModuleDef *module) {
    JS_SetModuleExportList(ctx, module, main_exports, COUNT(main_exports));
    JS_SetModuleExportList(ctx, module, console_exports, console_exports_len);
    JS_SetModuleExportList(ctx, module, file_exports, file_exports_len);
    JS_SetModuleExportList(ctx, module, socket_exports, socket_exports_len);
    JS_SetModuleExportList(ctx, module, loop_exports, loop_exports_len);
    JS_SetModuleExport(ctx, module, "scriptArgs", text_list(ctx, argument, arguments));
    return JS_SetModuleExport(ctx, module, "env", environment(ctx));
}

static void add_host(JSContext *ctx) {
    JSModuleDef *module = JS_NewCModule(ctx, "host", fill_host);
    JS_AddModuleExportList(ctx, module, main_exports, COUNT(main_exports));
    JS_AddModuleExportList(ctx, module, console_exports, console_exports_len);
    JS_AddModuleExportList(ctx, module, file_exports, file_exports_len);
    JS_AddModuleExportList(ctx, module, socket_exports, socket_exports_len);
    JS_AddModuleExportList(ctx, module, loop_exports, loop_exports_len);
    JS_AddModuleExport(ctx, module, "scriptArgs");
    JS_AddModuleExport(ctx, module, "env");
}

/* Modules are files; the engine has made their names relative to who imports them. */
static JSModuleDef *load(JSContext *ctx, const char *path, void *opaque) {
    size_t len;
    char *text = read_whole(path, &len);
    if (!text) {
        throw_errno(ctx, errno, path);
        return NULL;
    }
    JSValue compiled = JS_Eval(ctx, text, len, path, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
    free(text);
    if (JS_IsException(compiled))
        return NULL;
    JSModuleDef *module = JS_VALUE_GET_PTR(compiled);
    JS_FreeValue(ctx, compiled); /* the context keeps it */
    return module;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s SCRIPT ARGUMENT...\n", argv[0]);
        return 2;
    }
    arguments = argc - 1;
    argument = argv + 1;
    JSRuntime *runtime = JS_NewRuntime();
    JSContext *ctx = runtime ? JS_NewContext(runtime) : NULL;
    if (!ctx) {
        fputs("no memory for a context\n", stderr);
        return 1;
    }
    JS_SetModuleLoaderFunc(runtime, NULL, load, NULL);
    console_globals(ctx);
    loop_globals(ctx);
    add_host(ctx);

    size_t len;
    char *text = read_whole(argv[1], &len);
    if (!text) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    JSValue done = JS_Eval(ctx, text, len, argv[1], JS_EVAL_TYPE_MODULE);
    free(text);
    if (JS_IsException(done))
        die_of(ctx, JS_GetException(ctx));
    loop_run(ctx);
    if (JS_PromiseState(ctx, done) == JS_PROMISE_PENDING) {
        fprintf(stderr, "%s: awaits what never comes\n", argv[1]);
        return 13;
    }
    return 0;
}
