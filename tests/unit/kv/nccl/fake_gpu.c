// A libnccl and a libcudart without a GPU, with the manners of the real ones: streams are threads that work off what
// was enqueued, events are done when their turn comes, a communicator comes up only when both processes are there, a
// kernel spins until its peer has come or its communicator is aborted, and a peer's death is told to nobody.
//
// What the real ones would punish with a hang or with garbage is counted as a violation (`fakeViolations`).
// Faults, by environment: FAKE_NCCL_VERSION, FAKE_NCCL_INIT_MS, FAKE_NCCL_LAZY_MS, FAKE_NCCL_ABORT=hang,
// FAKE_NCCL_SEND=hang, FAKE_NCCL_DEATH=error, FAKE_NCCL_NO_MEM, FAKE_CUDA_COPY_US, FAKE_CUDA_DEVICES.
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, SYSTEM = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6, IN_PROGRESS = 7 };
enum { CUDA_OK = 0, CUDA_INVALID_VALUE = 1, CUDA_NO_MEMORY = 2, CUDA_BAD_DEVICE = 101, CUDA_BAD_HANDLE = 400, CUDA_NOT_READY = 600 };

static pthread_mutex_t world = PTHREAD_MUTEX_INITIALIZER;  // guards everything that is not a stream's queue
static char violations[4096];
static atomic_int live_comms, live_memory, live_streams, live_events, pending_copies, kernels_done, kernels_in_flight[16];
static atomic_long longest_lonely_ms;
static __thread int device_of_thread;

static long knob(const char *name, long otherwise) { const char *text = getenv(name); return text ? atol(text) : otherwise; }
static int says(const char *name, const char *value) { const char *text = getenv(name); return text && !strcmp(text, value); }
static void nap_us(long us) { struct timespec t = {us / 1000000, us % 1000000 * 1000}; nanosleep(&t, NULL); }
static long now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }

static void violate(const char *what) {
    pthread_mutex_lock(&world);
    if (!strstr(violations, what) && strlen(violations) + strlen(what) + 3 < sizeof violations) {
        strcat(violations, what);
        strcat(violations, "; ");
    }
    pthread_mutex_unlock(&world);
}

const char *fakeViolations(void) { return violations; }
void fakeForgetViolations(void) { violations[0] = 0; }
long fakeLongestLonelyMs(void) { return longest_lonely_ms; }
int fakeLiveComms(void) { return live_comms; }
int fakeLiveMemory(void) { return live_memory; }
int fakeLiveStreams(void) { return live_streams; }
int fakeLiveEvents(void) { return live_events; }
int fakePendingCopies(void) { return pending_copies; }
int fakeKernelsDone(void) { return kernels_done; }

// Memory

typedef struct Block { char *start; size_t size; int device; struct Block *next; } Block;
static Block *blocks;

static void *allocate(size_t size) {
    Block *block = malloc(sizeof *block);
    *block = (Block){calloc(1, size), size, device_of_thread, NULL};
    pthread_mutex_lock(&world);
    block->next = blocks, blocks = block;
    pthread_mutex_unlock(&world);
    live_memory++;
    return block->start;
}

static int release(void *start) {
    pthread_mutex_lock(&world);
    for (Block **link = &blocks; *link; link = &(*link)->next)
        if ((*link)->start == start) {
            Block *gone = *link;
            *link = gone->next;
            pthread_mutex_unlock(&world);
            memset(gone->start, 0xdd, gone->size);  // who still reads it shall notice
            free(gone->start), free(gone);
            live_memory--;
            return 1;
        }
    pthread_mutex_unlock(&world);
    return 0;
}

static int is_allocated(const char *start, size_t size) {
    int found = 0;
    pthread_mutex_lock(&world);
    for (Block *block = blocks; block; block = block->next)
        found |= start >= block->start && start + size <= block->start + block->size;
    pthread_mutex_unlock(&world);
    return found;
}

int cudaMalloc(void **at, size_t size) { *at = allocate(size); return CUDA_OK; }
int cudaFree(void *at) { return !at || release(at) ? CUDA_OK : CUDA_INVALID_VALUE; }
int cudaHostAlloc(void **at, size_t size, unsigned flags) { (void)flags; *at = allocate(size); return CUDA_OK; }
int cudaFreeHost(void *at) { return release(at) ? CUDA_OK : CUDA_INVALID_VALUE; }

// Devices, streams, events

typedef struct Event { atomic_long recorded, done; } Event;
typedef struct Comm Comm;
typedef struct Op {
    enum { COPY, FILL, RECORD, AWAIT, KERNEL } kind;
    char *to; const char *from; size_t size; int value; Event *event; long number; Comm *comm; int is_send;
    struct Op *next;
} Op;
typedef struct Stream { int device; pthread_t thread; pthread_mutex_t lock; pthread_cond_t came; Op *first, *last; int is_ended; } Stream;

static void run_kernel(Comm *comm, char *buffer, size_t size, int is_send);

static void perform(Op *op) {
    switch (op->kind) {
    case COPY: nap_us(knob("FAKE_CUDA_COPY_US", 0)); memcpy(op->to, op->from, op->size); pending_copies--; break;
    case FILL: memset(op->to, op->value, op->size); break;
    case RECORD: op->event->done = op->number; break;
    case AWAIT: while (op->event->done < op->number) nap_us(50); break;
    case KERNEL: run_kernel(op->comm, op->to, op->size, op->is_send); break;
    }
}

static void *work(void *argument) {
    Stream *stream = argument;
    for (;;) {
        pthread_mutex_lock(&stream->lock);
        while (!stream->first && !stream->is_ended) pthread_cond_wait(&stream->came, &stream->lock);
        Op *op = stream->first;
        if (op && !(stream->first = op->next)) stream->last = NULL;
        pthread_mutex_unlock(&stream->lock);
        if (!op) return NULL;
        perform(op);
        free(op);
    }
}

static int enqueue(Stream *stream, Op op) {
    if (!stream || stream->device != device_of_thread) { violate("a stream was used with another device current"); return CUDA_BAD_HANDLE; }
    pending_copies += op.kind == COPY;
    Op *copy = malloc(sizeof op);
    *copy = op;
    pthread_mutex_lock(&stream->lock);
    if (stream->last) stream->last->next = copy; else stream->first = copy;
    stream->last = copy;
    pthread_cond_signal(&stream->came);
    pthread_mutex_unlock(&stream->lock);
    return CUDA_OK;
}

int cudaGetDeviceCount(int *count) { *count = knob("FAKE_CUDA_DEVICES", 2); return *count ? CUDA_OK : 100; }
int cudaRuntimeGetVersion(int *version) { *version = knob("FAKE_CUDA_VERSION", 13000); return CUDA_OK; }
const char *cudaGetErrorString(int code) { return code == CUDA_BAD_HANDLE ? "invalid resource handle" : "fake error"; }
int cudaSetDevice(int device) { if (device >= knob("FAKE_CUDA_DEVICES", 2)) return CUDA_BAD_DEVICE; device_of_thread = device; return CUDA_OK; }

int cudaStreamCreateWithFlags(Stream **at, unsigned flags) {
    if (flags != 1) violate("a stream that waits for the engine's");
    Stream *stream = calloc(1, sizeof *stream);
    stream->device = device_of_thread;
    pthread_mutex_init(&stream->lock, NULL), pthread_cond_init(&stream->came, NULL);
    pthread_create(&stream->thread, NULL, work, stream);
    live_streams++;
    *at = stream;
    return CUDA_OK;
}

int cudaStreamDestroy(Stream *stream) {
    pthread_mutex_lock(&stream->lock);
    stream->is_ended = 1;
    pthread_cond_signal(&stream->came);
    pthread_mutex_unlock(&stream->lock);
    live_streams--;
    return CUDA_OK;  // the thread ends after its work, as a real stream does
}

int cudaEventCreateWithFlags(Event **at, unsigned flags) { (void)flags; *at = calloc(1, sizeof **at); live_events++; return CUDA_OK; }
int cudaEventDestroy(Event *event) { (void)event; live_events--; return CUDA_OK; }  // its memory stays: ops may still name it
int cudaEventQuery(Event *event) { return event->done >= event->recorded ? CUDA_OK : CUDA_NOT_READY; }
int cudaEventRecord(Event *event, Stream *stream) { long number = ++event->recorded; return enqueue(stream, (Op){.kind = RECORD, .event = event, .number = number}); }
int cudaStreamWaitEvent(Stream *stream, Event *event, unsigned flags) { (void)flags; return enqueue(stream, (Op){.kind = AWAIT, .event = event, .number = event->recorded}); }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, Stream *stream) {
    if (kind != 4) violate("a copy whose direction is not inferred");
    return enqueue(stream, (Op){.kind = COPY, .to = to, .from = from, .size = size});
}
int cudaMemsetAsync(void *at, int value, size_t size, Stream *stream) { return enqueue(stream, (Op){.kind = FILL, .to = at, .value = value, .size = size}); }

struct Attributes { int order, source_type, source_id, target_type, target_id; unsigned flags; };
int cudaMemcpyBatchAsync(void *const *to, const void *const *from, const size_t *sizes, size_t count, struct Attributes *attributes, size_t *first, size_t kinds, Stream *stream) {
    if (kinds != 1 || first[0] != 0 || attributes->order != 1 || attributes->flags) return CUDA_INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (cudaMemcpyAsync((void *)to[i], from[i], sizes[i], 4, stream)) return CUDA_BAD_HANDLE;
    return CUDA_OK;
}

// NCCL

typedef struct { char internal[128]; } UniqueId;
typedef struct { size_t size; unsigned magic, version; int blocking, cga, min_ctas, max_ctas; const char *net; int split; } Config;
struct Comm { atomic_int state, is_aborted, is_revoked, users, kernels, inits; int rank, device, socket, listener; UniqueId id; };
typedef struct Listener { char name[100]; int fd; struct Listener *next; } Listener;
static Listener *listeners;
static Comm *comms[4096];

static Comm *enter(Comm *comm) {  // NULL unless it is alive; one thread at a time
    Comm *found = NULL;
    pthread_mutex_lock(&world);
    for (int i = 0; i < 4096; i++) if (comm && comms[i] == comm) found = comm;
    pthread_mutex_unlock(&world);
    if (comm && !found) violate("a communicator was used after its end");
    if (found && found->users++) violate("two threads were inside one communicator");
    return found;
}

static int leave(Comm *comm, int result) { comm->users--; return result; }

int ncclGetVersion(int *version) { *version = knob("FAKE_NCCL_VERSION", 22907); return OK; }
const char *ncclGetErrorString(int result) { return result == OK ? "no error" : "fake nccl error"; }
const char *ncclGetLastError(Comm *comm) { (void)comm; return NULL; }
int ncclMemAlloc(void **at, size_t size) { if (getenv("FAKE_NCCL_NO_MEM")) return SYSTEM; *at = allocate(size); return OK; }
int ncclMemFree(void *at) { return !at || release(at) ? OK : INVALID_ARGUMENT; }

static socklen_t address_of(const char *name, struct sockaddr_un *address) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(address->sun_path + 1, name);  // abstract: gone with its process
    return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}

int ncclGetUniqueId(UniqueId *id) {
    static atomic_int made;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, 100, "tandem-fake-nccl-%d-%d-%ld", getpid(), made++, now_ms());
    Listener *listener = calloc(1, sizeof *listener);
    strcpy(listener->name, id->internal);
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_un address;
    socklen_t length = address_of(listener->name, &address);
    if (bind(listener->fd, (struct sockaddr *)&address, length) || listen(listener->fd, 2)) return SYSTEM;
    pthread_mutex_lock(&world);
    listener->next = listeners, listeners = listener;
    pthread_mutex_unlock(&world);
    return OK;
}

static int take_listener(const char *name) {
    int fd = -1;
    pthread_mutex_lock(&world);
    for (Listener *listener = listeners; listener; listener = listener->next)
        if (!strcmp(listener->name, name)) fd = listener->fd, listener->fd = -1;
    pthread_mutex_unlock(&world);
    return fd;
}

static int move_all(Comm *comm, char *buffer, size_t size, int is_send) {  // 0: done, 1: told to end, -1: the peer is gone
    while (size) {
        if (comm->is_aborted || comm->is_revoked) return 1;
        ssize_t n = is_send ? send(comm->socket, buffer, size, MSG_DONTWAIT | MSG_NOSIGNAL) : recv(comm->socket, buffer, size, MSG_DONTWAIT);
        if (n > 0) buffer += n, size -= n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR)) return -1;
        else nap_us(50);
    }
    return 0;
}

static void *init(void *argument) {
    Comm *comm = argument;
    struct sockaddr_un address;
    socklen_t length = address_of(comm->id.internal, &address);
    for (long end = now_ms() + knob("FAKE_NCCL_INIT_MS", 0); now_ms() < end && !comm->is_aborted;) nap_us(1000);
    while (comm->socket < 0 && !comm->is_aborted) {
        if (comm->rank == 0) comm->socket = accept4(comm->listener, NULL, NULL, SOCK_CLOEXEC);
        else {
            int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (connect(fd, (struct sockaddr *)&address, length)) close(fd); else comm->socket = fd;
        }
        if (comm->socket < 0) nap_us(1000);
    }
    int mine, theirs = 0;
    ncclGetVersion(&mine);
    int end = comm->is_aborted ? 1 : move_all(comm, (char *)&mine, sizeof mine, 1) | move_all(comm, (char *)&theirs, sizeof theirs, 0);
    if (end == 0) comm->state = mine == theirs ? OK : INVALID_USAGE;
    else if (end < 0) comm->state = REMOTE;
    comm->inits--;
    return NULL;
}

int ncclCommInitRankConfig(Comm **at, int ranks, UniqueId id, int rank, Config *config) {
    if (config->magic != 0xcafebeef || config->size < sizeof *config || ranks != 2) return INVALID_ARGUMENT;
    if (config->blocking) { violate("a blocking communicator"); return INVALID_USAGE; }
    Comm *comm = calloc(1, sizeof *comm);
    comm->rank = rank, comm->device = device_of_thread, comm->socket = -1, comm->id = id;
    comm->state = IN_PROGRESS;
    comm->inits = 1;
    comm->listener = rank == 0 ? take_listener(id.internal) : -1;
    if (rank == 0 && comm->listener < 0) return INVALID_ARGUMENT;
    pthread_mutex_lock(&world);
    for (int i = 0; i < 4096; i++) if (!comms[i]) { comms[i] = comm; break; }
    pthread_mutex_unlock(&world);
    live_comms++;
    pthread_t thread;
    pthread_create(&thread, NULL, init, comm);
    pthread_detach(thread);
    *at = comm;
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(Comm *comm, int *state) {
    if (!enter(comm)) return INVALID_ARGUMENT;
    *state = comm->state;
    return leave(comm, OK);
}

static void run_kernel(Comm *comm, char *buffer, size_t size, int is_send) {
    if (++kernels_in_flight[comm->device] > 1) violate("two kernels of communicators were in flight on one device");
    char mine = is_send ? 'S' : 'R', theirs = 0;
    long posted = now_ms();
    int end = move_all(comm, &mine, 1, 1);
    if (!end) end = move_all(comm, &theirs, 1, 0);
    long lonely = now_ms() - posted;
    if (!end && lonely > longest_lonely_ms) longest_lonely_ms = lonely;
    if (!end && theirs == mine) violate("both ends of a communicator send, or both receive");
    if (!end) end = move_all(comm, buffer, size, is_send);
    if (end < 0 && says("FAKE_NCCL_DEATH", "error")) comm->state = REMOTE;
    while (end < 0 && !comm->is_aborted && !comm->is_revoked) nap_us(200);  // nobody tells a kernel that its peer died
    kernels_in_flight[comm->device]--;
    kernels_done += !end;
    comm->kernels--;
}

typedef struct Late { Comm *comm; Stream *stream; Op op; int device; } Late;

static void *post_late(void *argument) {  // connections are made at the first operation
    Late *late = argument;
    for (long end = now_ms() + knob("FAKE_NCCL_LAZY_MS", 0); now_ms() < end && !late->comm->is_aborted;) nap_us(1000);
    device_of_thread = late->device;
    enqueue(late->stream, late->op);
    late->comm->state = OK;
    late->comm->inits--;
    free(late);
    return NULL;
}

static int post(char *buffer, size_t size, int type, int peer, Comm *comm, Stream *stream, int is_send) {
    if (!enter(comm)) return INVALID_ARGUMENT;
    if (comm->state != OK) { violate("an operation on a communicator that was not ready"); return leave(comm, INVALID_USAGE); }
    if (type != 0 || peer != 1 - comm->rank) return leave(comm, INVALID_ARGUMENT);
    if (!is_allocated(buffer, size)) { violate("a buffer that is not device memory"); return leave(comm, INVALID_ARGUMENT); }
    while (is_send && says("FAKE_NCCL_SEND", "hang")) nap_us(100000);
    comm->kernels++;
    Op op = {.kind = KERNEL, .to = buffer, .size = size, .comm = comm, .is_send = is_send};
    if (!knob("FAKE_NCCL_LAZY_MS", 0)) return leave(comm, enqueue(stream, op) ? INVALID_USAGE : OK);
    Late *late = malloc(sizeof *late);
    *late = (Late){comm, stream, op, device_of_thread};
    comm->state = IN_PROGRESS;
    comm->inits++;
    pthread_t thread;
    pthread_create(&thread, NULL, post_late, late);
    pthread_detach(thread);
    return leave(comm, IN_PROGRESS);
}

int ncclSend(char *buffer, size_t count, int type, int peer, Comm *comm, Stream *stream) { return post(buffer, count, type, peer, comm, stream, 1); }
int ncclRecv(char *buffer, size_t count, int type, int peer, Comm *comm, Stream *stream) { return post(buffer, count, type, peer, comm, stream, 0); }

int ncclCommRevoke(Comm *comm, int flags) {
    if (!enter(comm)) return INVALID_ARGUMENT;
    comm->is_revoked = 1;
    return leave(comm, flags ? INVALID_ARGUMENT : OK);
}

int ncclCommAbort(Comm *comm) {
    if (!enter(comm)) return INVALID_ARGUMENT;
    while (says("FAKE_NCCL_ABORT", "hang")) nap_us(100000);
    comm->is_aborted = 1;
    while (comm->kernels || comm->inits) nap_us(200);
    pthread_mutex_lock(&world);
    for (int i = 0; i < 4096; i++) if (comms[i] == comm) comms[i] = NULL;
    pthread_mutex_unlock(&world);
    if (comm->socket >= 0) close(comm->socket);
    if (comm->listener >= 0) close(comm->listener);
    live_comms--;
    return OK;  // its memory stays, so that late users are found out rather than crash
}

int ncclCommMemStats(Comm *comm, int stat, uint64_t *value) {
    if (!enter(comm)) return INVALID_ARGUMENT;
    *value = 52 << 20;
    return leave(comm, stat == 3 ? OK : INVALID_ARGUMENT);
}

int ncclCommRegister(Comm *comm, void *buffer, size_t size, void **handle) {
    if (!enter(comm)) return INVALID_ARGUMENT;
    *handle = buffer;
    return leave(comm, is_allocated(buffer, size) ? OK : INVALID_ARGUMENT);
}
