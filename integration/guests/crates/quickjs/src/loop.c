/* The event loop: promises' jobs, timers, and descriptors that somebody waits for, all in one poll_oneoff. */
#include "host.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wasi/api.h>

typedef struct Timer {
    struct Timer *next;
    int64_t id;
    uint64_t at, interval; /* nanoseconds; no interval: it fires once */
    JSValue function;
    int argc;
    JSValue argv[];
} Timer;

/* Somebody waits for a descriptor; a rejected promise that nobody has handled yet is kept in the same way. */
typedef struct Waiter {
    struct Waiter *next;
    int fd;
    uint8_t type; /* __WASI_EVENTTYPE_FD_READ or _WRITE */
    JSValue resolve;
} Waiter;

typedef struct Rejection {
    struct Rejection *next;
    JSValue promise, reason;
} Rejection;

static Timer *timers; /* the first that is due is the first of the list */
static Waiter *waiters;
static Rejection *rejections;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void *need(void *memory) {
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* Behind all that are due at the same time: who came first is called first. */
static void insert(Timer *timer) {
    Timer **place = &timers;
    while (*place && (*place)->at <= timer->at)
        place = &(*place)->next;
    timer->next = *place;
    *place = timer;
}

static void free_timer(JSContext *ctx, Timer *timer) {
    JS_FreeValue(ctx, timer->function);
    for (int n = 0; n < timer->argc; n++)
        JS_FreeValue(ctx, timer->argv[n]);
    free(timer);
}

static JSValue set_timer(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv, int repeats) {
    static int64_t last;
    double delay = 0;
    if (!JS_IsFunction(ctx, argv[0]))
        return JS_ThrowTypeError(ctx, "not a function");
    if (argc > 1 && JS_ToFloat64(ctx, &delay, argv[1]))
        return JS_EXCEPTION;
    uint64_t duration = delay >= 1 ? (delay < 1e12 ? delay * 1e6 : 1e18) : 1000000;
    int extra = argc > 2 ? argc - 2 : 0;
    Timer *timer = need(malloc(sizeof *timer + extra * sizeof(JSValue)));
    *timer = (Timer){.id = ++last, .at = now() + duration, .interval = repeats ? duration : 0, .argc = extra};
    timer->function = JS_DupValue(ctx, argv[0]);
    for (int n = 0; n < extra; n++)
        timer->argv[n] = JS_DupValue(ctx, argv[n + 2]);
    insert(timer);
    return JS_NewInt64(ctx, timer->id);
}

static JSValue clear_timer(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    int64_t id;
    if (JS_ToInt64(ctx, &id, argv[0]))
        return JS_EXCEPTION;
    for (Timer **place = &timers; *place; place = &(*place)->next) {
        Timer *timer = *place;
        if (timer->id == id) {
            *place = timer->next;
            free_timer(ctx, timer);
            break;
        }
    }
    return JS_UNDEFINED;
}

static JSValue wait_for(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv, int type) {
    JSValue functions[2], promise = JS_NewPromiseCapability(ctx, functions);
    int32_t fd;
    if (JS_IsException(promise) || JS_ToInt32(ctx, &fd, argv[0]))
        return JS_EXCEPTION;
    JS_FreeValue(ctx, functions[1]);
    Waiter *waiter = need(malloc(sizeof *waiter));
    *waiter = (Waiter){.next = waiters, .fd = fd, .type = type, .resolve = functions[0]};
    waiters = waiter;
    return promise;
}

static void call(JSContext *ctx, JSValueConst function, int argc, JSValueConst *argv) {
    JSValue result = JS_Call(ctx, function, JS_UNDEFINED, argc, argv);
    if (JS_IsException(result))
        die_of(ctx, JS_GetException(ctx));
    JS_FreeValue(ctx, result);
}

static void wake(JSContext *ctx, Waiter **place) {
    Waiter *waiter = *place;
    *place = waiter->next;
    call(ctx, waiter->resolve, 0, NULL);
    JS_FreeValue(ctx, waiter->resolve);
    free(waiter);
}

void loop_forget(JSContext *ctx, int fd) {
    for (Waiter **place = &waiters; *place;)
        if ((*place)->fd == fd)
            wake(ctx, place);
        else
            place = &(*place)->next;
}

static void track(JSContext *ctx, JSValueConst promise, JSValueConst reason, bool handled, void *opaque) {
    Rejection **place = &rejections;
    while (*place && JS_VALUE_GET_PTR((*place)->promise) != JS_VALUE_GET_PTR(promise))
        place = &(*place)->next;
    Rejection *found = *place;
    if (!handled && !found) {
        *place = need(malloc(sizeof **place));
        **place = (Rejection){.promise = JS_DupValue(ctx, promise), .reason = JS_DupValue(ctx, reason)};
    } else if (handled && found) {
        *place = found->next;
        JS_FreeValue(ctx, found->promise);
        JS_FreeValue(ctx, found->reason);
        free(found);
    }
}

/* The jobs of promises go before everything else. What is rejected after them stays so. */
static void run_jobs(JSContext *ctx) {
    JSContext *where;
    int more;
    while ((more = JS_ExecutePendingJob(JS_GetRuntime(ctx), &where)) > 0)
        ;
    if (more < 0)
        die_of(where, JS_GetException(where));
    if (rejections)
        die_of(ctx, rejections->reason);
}

static void run_timers(JSContext *ctx) {
    uint64_t start = now();
    while (timers && timers->at <= start) {
        Timer *timer = timers;
        timers = timer->next;
        /* An interval stays in the list while it is called, for it may clear itself. */
        if (timer->interval) {
            Timer *again = need(malloc(sizeof *again + timer->argc * sizeof(JSValue)));
            memcpy(again, timer, sizeof *timer + timer->argc * sizeof(JSValue));
            JS_DupValue(ctx, again->function);
            for (int n = 0; n < again->argc; n++)
                JS_DupValue(ctx, again->argv[n]);
            again->at = start + again->interval;
            insert(again);
        }
        call(ctx, timer->function, timer->argc, (JSValueConst *)timer->argv);
        free_timer(ctx, timer);
        run_jobs(ctx);
    }
}

static void wait_for_something(JSContext *ctx) {
    size_t count = timers ? 1 : 0;
    for (Waiter *waiter = waiters; waiter; waiter = waiter->next)
        count++;
    __wasi_subscription_t *wanted = need(calloc(count, sizeof *wanted)), *next = wanted;
    __wasi_event_t *events = need(calloc(count, sizeof *events));
    for (Waiter *waiter = waiters; waiter; waiter = waiter->next, next++) {
        next->userdata = (uintptr_t)waiter;
        next->u.tag = waiter->type;
        next->u.u.fd_read.file_descriptor = waiter->fd;
    }
    if (timers) {
        next->u.tag = __WASI_EVENTTYPE_CLOCK;
        next->u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
        next->u.u.clock.timeout = timers->at;
        next->u.u.clock.flags = __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME;
    }
    __wasi_size_t happened = 0;
    int error = __wasi_poll_oneoff(wanted, events, count, &happened);
    if (error) {
        fprintf(stderr, "poll_oneoff: %s\n", strerror(error));
        exit(1);
    }
    /* An event that is an error wakes as well: the next call on that descriptor says what is wrong. */
    for (size_t n = 0; n < happened; n++)
        for (Waiter **place = &waiters; *place; place = &(*place)->next)
            if (events[n].userdata == (uintptr_t)*place) {
                wake(ctx, place);
                break;
            }
    free(wanted);
    free(events);
}

void loop_run(JSContext *ctx) {
    for (run_jobs(ctx); timers || waiters; run_jobs(ctx)) {
        run_timers(ctx);
        if (timers || waiters)
            wait_for_something(ctx);
    }
}

static const JSCFunctionListEntry globals[] = {
    JS_CFUNC_MAGIC_DEF("setTimeout", 2, set_timer, false),
    JS_CFUNC_MAGIC_DEF("setInterval", 2, set_timer, true),
    JS_CFUNC_DEF("clearTimeout", 1, clear_timer),
    JS_CFUNC_DEF("clearInterval", 1, clear_timer),
};

void loop_globals(JSContext *ctx) {
    JSValue global = JS_GetGlobalObject(ctx);
    JS_SetPropertyFunctionList(ctx, global, globals, COUNT(globals));
    JS_FreeValue(ctx, global);
    JS_SetHostPromiseRejectionTracker(JS_GetRuntime(ctx), track, NULL);
}

const JSCFunctionListEntry loop_exports[] = {
    JS_CFUNC_MAGIC_DEF("readable", 1, wait_for, __WASI_EVENTTYPE_FD_READ),
    JS_CFUNC_MAGIC_DEF("writable", 1, wait_for, __WASI_EVENTTYPE_FD_WRITE),
};
const int loop_exports_len = COUNT(loop_exports);
