/* Files: whole ones, and the names in a directory. */
#include "host.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

JSValue throw_errno(JSContext *ctx, int error, const char *what) {
    JSValue thrown = JS_NewError(ctx);
    char message[512];
    snprintf(message, sizeof message, "%s: %s", what, strerror(error));
    JS_DefinePropertyValueStr(ctx, thrown, "message", JS_NewString(ctx, message), JS_PROP_C_W_E);
    JS_DefinePropertyValueStr(ctx, thrown, "code", JS_NewInt32(ctx, error), JS_PROP_C_W_E);
    return JS_Throw(ctx, thrown);
}

char *read_whole(const char *path, size_t *len) {
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return NULL;
    char *text = NULL;
    size_t room = 0;
    ssize_t got = 0;
    *len = 0;
    do {
        *len += got;
        if (room - *len < 4096) {
            char *larger = realloc(text, room = room * 2 + 8192);
            if (!larger) {
                got = -1;
                break;
            }
            text = larger;
        }
        got = read(fd, text + *len, room - *len - 1);
    } while (got > 0);
    int error = errno;
    close(fd);
    if (got < 0) {
        free(text);
        errno = error;
        return NULL;
    }
    text[*len] = 0;
    return text;
}

static JSValue read_file(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    const char *path = JS_ToCString(ctx, argv[0]);
    if (!path)
        return JS_EXCEPTION;
    size_t len;
    char *text = read_whole(path, &len);
    JSValue result =
        text ? JS_NewUint8ArrayCopy(ctx, (const uint8_t *)text, len) : throw_errno(ctx, errno, path);
    free(text);
    JS_FreeCString(ctx, path);
    return result;
}

/* Writes all, at the end of the file if `append`; the errno, or 0. */
static int write_whole(const char *path, const Bytes *bytes, bool append) {
    int fd = open(path, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC), 0666), error = 0;
    if (fd < 0)
        return errno;
    for (size_t done = 0; done < bytes->len && !error;) {
        ssize_t put = write(fd, bytes->data + done, bytes->len - done);
        if (put < 0)
            error = errno;
        else
            done += put;
    }
    if (close(fd) && !error)
        error = errno;
    return error;
}

static JSValue write_file(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv, int append) {
    const char *path = JS_ToCString(ctx, argv[0]);
    Bytes bytes;
    if (!path || !bytes_of(ctx, argv[1], &bytes)) {
        JS_FreeCString(ctx, path);
        return JS_EXCEPTION;
    }
    int error = write_whole(path, &bytes, append);
    JSValue result = error ? throw_errno(ctx, error, path) : JS_UNDEFINED;
    bytes_free(ctx, &bytes);
    JS_FreeCString(ctx, path);
    return result;
}

static JSValue read_dir(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    const char *path = JS_ToCString(ctx, argv[0]);
    if (!path)
        return JS_EXCEPTION;
    DIR *dir = opendir(path);
    JSValue names = dir ? JS_NewArray(ctx) : throw_errno(ctx, errno, path);
    uint32_t count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            JS_SetPropertyUint32(ctx, names, count++, JS_NewString(ctx, entry->d_name));
    if (dir)
        closedir(dir);
    JS_FreeCString(ctx, path);
    return names;
}

enum { MAKE_DIR, REMOVE };

static JSValue change(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv, int what) {
    const char *path = JS_ToCString(ctx, argv[0]);
    if (!path)
        return JS_EXCEPTION;
    int failed = what == MAKE_DIR ? mkdir(path, 0777) : remove(path);
    JSValue result = failed ? throw_errno(ctx, errno, path) : JS_UNDEFINED;
    JS_FreeCString(ctx, path);
    return result;
}

const JSCFunctionListEntry file_exports[] = {
    JS_CFUNC_DEF("readFile", 1, read_file),
    JS_CFUNC_MAGIC_DEF("writeFile", 2, write_file, false),
    JS_CFUNC_MAGIC_DEF("appendFile", 2, write_file, true),
    JS_CFUNC_DEF("readDir", 1, read_dir),
    JS_CFUNC_MAGIC_DEF("makeDir", 1, change, MAKE_DIR),
    JS_CFUNC_MAGIC_DEF("remove", 1, change, REMOVE),
};
const int file_exports_len = COUNT(file_exports);
