/* A stand-in for libnvidia-ml.so.1: every NVML function that agent/gpu calls, answered from a control file.

   The file is named by STOKER_TEST_NVML and read again when it changes (looked at every 20 ms), so a test drives a
   running sampler. One statement a line; later lines win:

       gpus 8                                    at the next nvmlInit
       driver 550.54.15
       name gpu=2 any bytes to the end of the line
       uuid gpu=2 GPU-another                    another board in the place of the usual one
       value gpu=* power_mw=250000               keys: see KEY_NAMES
       process gpu=0 pid=4711 memory=1073741824  with slot=2 after it: in that MIG instance
       link gpu=0 link=3 to=1                    an NVLink to GPU 1; to=switch; to=off: there, and not up
       near gpu=0 peer=1 level=20                an nvmlGpuTopologyLevel_t; 50 (SYSTEM) where nothing is said
       mig gpu=0                                 MIG mode is on
       mig gpu=0 slot=2 profile=1g.10gb total=10737418240 used=4096
       hang FUNCTION|* gpu=3                     until the line is gone
       fail FUNCTION|* gpu=* code=15             an nvmlReturn_t
       field gpu=0 id=82 scope=0 type=1 code=0 value=61    what nvmlDeviceGetFieldValues says; scope=* is any
       sample gpu=0 ring=0 at=1000100000 value=250000      in an nvmlSamplingType_t's ring, at microseconds
       sampletype 3                              the nvmlValueType_t of all rings
       rings                                     all rings and the processes' use go on by themselves
       pace ring=1 200                           so many samples a second then; room ring=1 300: how many it says that it holds
       overtell                                  samples and processes are told with their number, though fewer fitted
       graphics gpu=0 pid=4711 memory=1024       a process that draws
       use gpu=0 pid=4711 at=1000200000 sm=37    a process's share of the SMs
       serial gpu=0 1650123456789                no board has one where nothing is said; vbios likewise
       event 7 gpu=0 type=8 data=79 instance=0   an event, once for each number: 7 was not told before; instance is a MIG one's
       gpm gpu=0 metric=2 value=43.5             an nvmlGpmMetricId_t; gpm gpu=0 off: not on this board

   gpu=* is every GPU, and the functions that concern none. -DOLD_DRIVER leaves out what old libraries do not have,
   -DOLD_EVENTS what events had not before R450. */

#define _GNU_SOURCE
#include <libgen.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMED_OUT = 10 };
enum { FIELDS_MAX = 512, SAMPLES_MAX = 2048, METRICS_MAX = 16, EVENTS_MAX = 64, RINGS = 3, RING_ROOM = 120, POWER_A_SECOND = 50, USE_A_SECOND = 6 };
enum { GPUS_MAX = 16, RULES_MAX = 64, PROCESSES_MAX = 256, LINKS_MAX = 18, SLOTS_MAX = 7, ANY = -1, HANG = -1 };
enum { WHOLE = -1, NO_LINK = -3, LINK_OFF = -2, TO_SWITCH = -1, FIRST_BUS = 0x10 };
enum { VALUE_DOUBLE, VALUE_UINT, VALUE_ULONG, VALUE_ULL, VALUE_SLL, VALUE_INT, VALUE_USHORT };
#define LOOK_AGAIN_NS 20000000L

typedef int nvmlReturn_t;
typedef struct device { int index, slot; } *nvmlDevice_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute_instance; } nvmlProcessInfo_t;
typedef union { double d; unsigned u; unsigned long long ull; long long sll; int i; unsigned short us; } nvmlValue_t;
typedef struct { unsigned id, scope; long long at, latency; unsigned type; int code; nvmlValue_t value; } nvmlFieldValue_t;
typedef struct { unsigned long long at; nvmlValue_t value; } nvmlSample_t;
typedef struct { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; } nvmlProcessUtilizationSample_t;
typedef struct sample { int gpu; unsigned number; } *nvmlGpmSample_t;
typedef struct { unsigned id; int code; double value; const char *texts[3]; } nvmlGpmMetric_t;
typedef struct { unsigned version, count; nvmlGpmSample_t from, to; nvmlGpmMetric_t metrics[]; } nvmlGpmMetricsGet_t;
typedef struct { unsigned units[6], gpu_slices, compute_slices; unsigned long long memory_mb; } nvmlDeviceAttributes_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } nvmlPciInfo_t;

enum key { UTIL, POWER_MW, LIMIT_MW, TEMP, SM_MHZ, MEM_MHZ, TOTAL, USED, MEM_UTIL, ENERGY_MJ, MINOR, REMAPPED, PENDING, FAILED, REPLAYS,
    RESERVED, ENCODER, DECODER, FAN, PSTATE, REASONS, SLOWDOWN, SHUTDOWN, LIMIT_DEFAULT, LIMIT_MIN, LIMIT_MAX, SM_MAX, MEM_MAX,
    PCIE_GEN, PCIE_WIDTH, PCIE_GEN_MAX, PCIE_WIDTH_MAX, ECC_CORRECTED, ECC_UNCORRECTED, KEYS };
static const char *const KEY_NAMES[KEYS] = {"util", "power_mw", "limit_mw", "temp", "sm_mhz", "mem_mhz", "total", "used",
    "mem_util", "energy_mj", "minor", "remapped", "remap_pending", "remap_failed", "replays",
    "reserved", "encoder", "decoder", "fan", "pstate", "reasons", "slowdown", "shutdown", "limit_default", "limit_min", "limit_max",
    "sm_max", "mem_max", "pcie_gen", "pcie_width", "pcie_gen_max", "pcie_width_max", "ecc_corrected", "ecc_uncorrected"};

struct rule { char function[64]; int gpu, code; };
struct process { int gpu, slot; unsigned pid; unsigned long long memory; };
struct field { int gpu, code; unsigned id, scope, any_scope, type; nvmlValue_t value; };
struct ring_sample { int gpu, ring; unsigned long long at; nvmlValue_t value; };
struct use { int gpu; unsigned pid, sm; unsigned long long at; };
struct metric { int gpu; unsigned id; double value; };
struct event { unsigned number; int gpu; unsigned instance; unsigned long long type, data; };
struct instance { char profile[32]; unsigned long long total, used; };
struct control {
    int gpus;
    char driver[80];
    char names[GPUS_MAX][256], uuids[GPUS_MAX][64], serials[GPUS_MAX][64], firmwares[GPUS_MAX][64];
    unsigned long long values[GPUS_MAX][KEYS];
    struct rule rules[RULES_MAX];
    int rule_count;
    struct process processes[PROCESSES_MAX], graphics[PROCESSES_MAX];
    int process_count, graphics_count;
    struct field fields[FIELDS_MAX];
    struct ring_sample samples[SAMPLES_MAX];
    struct use uses[PROCESSES_MAX];
    struct metric metrics[METRICS_MAX];
    struct event events[EVENTS_MAX];
    int field_count, sample_count, use_count, metric_count, event_count, going, overtells, gpm_off[GPUS_MAX];
    unsigned ring_pace[RINGS], ring_room[RINGS];
    unsigned sample_type;
    int links[GPUS_MAX][LINKS_MAX], levels[GPUS_MAX][GPUS_MAX], mig[GPUS_MAX];
    struct instance instances[GPUS_MAX][SLOTS_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct control control;
static struct timespec looked_at;
static struct stat seen;
static int references, opened_gpus;
static struct device devices[GPUS_MAX], parts[GPUS_MAX][SLOTS_MAX];

/* --- control file --- */

static void set_defaults(void) {
    memset(&control, 0, sizeof control);
    control.gpus = 1;
    for (int ring = 0; ring < RINGS; ring++) {
        control.ring_pace[ring] = ring == 0 ? POWER_A_SECOND : USE_A_SECOND;
        control.ring_room[ring] = RING_ROOM;
    }
    strcpy(control.driver, "550.54.15");
    for (int i = 0; i < GPUS_MAX; i++) {
        control.sample_type = VALUE_UINT;
        strcpy(control.names[i], "NVIDIA H100 80GB HBM3");
        unsigned long long defaults[KEYS] = {10 + i, 100000 + 1000 * i, 700000, 40 + i, 1500, 2619, 80ULL << 30, (1ULL + i) << 30,
            5 + i, 1000000ULL * (i + 1), i, 0, 0, 0, 0,
            600ULL << 20, 0, 0, 0, 0, 0, 87, 92, 700000, 200000, 700000, 1980, 2619, 5, 16, 5, 16};
        memcpy(control.values[i], defaults, sizeof defaults);
        for (int link = 0; link < LINKS_MAX; link++) control.links[i][link] = NO_LINK;
        for (int peer = 0; peer < GPUS_MAX; peer++) control.levels[i][peer] = 50;
    }
}

static int gpu_of(const char *text) { return strcmp(text, "*") == 0 ? ANY : atoi(text); }

static void set_value(const char *gpu_text, const char *pair) {
    const char *equals = strchr(pair, '=');
    int gpu = gpu_of(gpu_text);
    for (int key = 0; equals && key < KEYS; key++)
        if (strlen(KEY_NAMES[key]) == (size_t)(equals - pair) && strncmp(pair, KEY_NAMES[key], equals - pair) == 0)
            for (int i = 0; i < GPUS_MAX; i++)
                if (gpu == ANY || gpu == i) control.values[i][key] = strtoull(equals + 1, NULL, 10);
}

static int in(int number, int end) { return number >= 0 && number < end; }

/* What a GPU is connected to and divided into; 1 if the line is of that kind. */
static int take_fabric(const char *line) {
    char word[32];
    int gpu, other, level;
    unsigned long long total, used;
    if (sscanf(line, "link gpu=%d link=%d to=%31s", &gpu, &other, word) == 3) {
        if (in(gpu, GPUS_MAX) && in(other, LINKS_MAX))
            control.links[gpu][other] = strcmp(word, "switch") == 0 ? TO_SWITCH : strcmp(word, "off") == 0 ? LINK_OFF : atoi(word);
    } else if (sscanf(line, "near gpu=%d peer=%d level=%d", &gpu, &other, &level) == 3) {
        if (in(gpu, GPUS_MAX) && in(other, GPUS_MAX)) control.levels[gpu][other] = control.levels[other][gpu] = level;
    } else if (sscanf(line, "mig gpu=%d slot=%d profile=%31s total=%llu used=%llu", &gpu, &other, word, &total, &used) == 5) {
        if (!in(gpu, GPUS_MAX) || !in(other, SLOTS_MAX)) return 1;
        control.mig[gpu] = 1;
        control.instances[gpu][other].total = total;
        control.instances[gpu][other].used = used;
        strcpy(control.instances[gpu][other].profile, word);
    } else if (sscanf(line, "mig gpu=%d", &gpu) == 1) {
        if (in(gpu, GPUS_MAX)) control.mig[gpu] = 1;
    } else return 0;
    return 1;
}

/* All bytes of a short value's room are dirty, as in a buffer that is used again. */
static nvmlValue_t value_of(unsigned type, const char *text) {
    nvmlValue_t value = {.ull = 0xA5A5A5A5A5A5A5A5ULL};
    if (type == VALUE_DOUBLE) value.d = strtod(text, NULL);
    else if (type == VALUE_UINT) value.u = strtoul(text, NULL, 10);
    else if (type == VALUE_INT) value.i = atoi(text);
    else if (type == VALUE_USHORT) value.us = atoi(text);
    else value.ull = strtoull(text, NULL, 10);
    return value;
}

/* What is read of rings, fields and the like; 1 if the line is of that kind. */
static int take_readings(const char *line) {
    char scope[16], value[32], gpu_text[16];
    int gpu, code, ring;
    unsigned id, type, pid;
    unsigned long long at, told;
    double number;
    if (sscanf(line, "field gpu=%15s id=%u scope=%15s type=%u code=%d value=%31s", gpu_text, &id, scope, &type, &code, value) == 6) {
        if (control.field_count < FIELDS_MAX)
            control.fields[control.field_count++] = (struct field){gpu_of(gpu_text), code, id, strtoul(scope, NULL, 10), *scope == '*', type, value_of(type, value)};
    } else if (sscanf(line, "sample gpu=%d ring=%d at=%llu value=%31s", &gpu, &ring, &at, value) == 4) {
        if (control.sample_count < SAMPLES_MAX)
            control.samples[control.sample_count++] = (struct ring_sample){gpu, ring, at, value_of(control.sample_type, value)};
    } else if (sscanf(line, "sampletype %u", &type) == 1) control.sample_type = type;
    else if (strcmp(line, "rings") == 0) control.going = 1;
    else if (strcmp(line, "overtell") == 0) control.overtells = 1;
    else if (sscanf(line, "pace ring=%u %u", &id, &type) == 2 && id < RINGS) control.ring_pace[id] = type;
    else if (sscanf(line, "room ring=%u %u", &id, &type) == 2 && id < RINGS) control.ring_room[id] = type;
    else if (sscanf(line, "graphics gpu=%d pid=%u memory=%llu", &gpu, &pid, &at) == 3) {
        if (control.graphics_count < PROCESSES_MAX) control.graphics[control.graphics_count++] = (struct process){gpu, WHOLE, pid, at};
    } else if (sscanf(line, "use gpu=%d pid=%u at=%llu sm=%u", &gpu, &pid, &at, &id) == 4) {
        if (control.use_count < PROCESSES_MAX) control.uses[control.use_count++] = (struct use){gpu, pid, id, at};
    } else if (sscanf(line, "event %u gpu=%d type=%llu data=%llu", &id, &gpu, &at, &told) == 4) {
        const char *part = strstr(line, "instance=");
        if (control.event_count < EVENTS_MAX)
            control.events[control.event_count++] = (struct event){id, gpu, part ? atoi(part + 9) : ~0u, at, told};
    } else if (sscanf(line, "gpm gpu=%15s metric=%u value=%lf", gpu_text, &id, &number) == 3) {
        if (control.metric_count < METRICS_MAX) control.metrics[control.metric_count++] = (struct metric){gpu_of(gpu_text), id, number};
    } else if (sscanf(line, "gpm gpu=%15s off", gpu_text) == 1) {
        for (int i = 0; i < GPUS_MAX; i++) if (gpu_of(gpu_text) == ANY || gpu_of(gpu_text) == i) control.gpm_off[i] = 1;
    } else return 0;
    return 1;
}

static void take_line(char *line) {
    char gpu[16], word[64];
    int code, slot = WHOLE, taken = 0;
    unsigned pid;
    unsigned long long memory;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "gpus %d", &code) == 1) control.gpus = code > GPUS_MAX ? GPUS_MAX : code;
    else if (sscanf(line, "driver %79s", control.driver) == 1) return;
    else if (sscanf(line, "name gpu=%d %n", &code, &taken) == 1 && taken && code >= 0 && code < GPUS_MAX)
        strncpy(control.names[code], line + taken, sizeof control.names[code] - 1);
    else if (sscanf(line, "uuid gpu=%d %63s", &code, word) == 2 && code >= 0 && code < GPUS_MAX) strcpy(control.uuids[code], word);
    else if (sscanf(line, "serial gpu=%d %63s", &code, word) == 2 && in(code, GPUS_MAX)) strcpy(control.serials[code], word);
    else if (sscanf(line, "vbios gpu=%d %63s", &code, word) == 2 && in(code, GPUS_MAX)) strcpy(control.firmwares[code], word);
    else if (sscanf(line, "value gpu=%15s %n", gpu, &taken) == 1 && taken)
        for (char *pair = strtok(line + taken, " "); pair; pair = strtok(NULL, " ")) set_value(gpu, pair);
    else if (sscanf(line, "process gpu=%d pid=%u memory=%llu slot=%d", &code, &pid, &memory, &slot) >= 3 && control.process_count < PROCESSES_MAX)
        control.processes[control.process_count++] = (struct process){code, slot, pid, memory};
    else if (take_fabric(line) || take_readings(line)) return;
    else if (control.rule_count < RULES_MAX) {
        struct rule *rule = &control.rules[control.rule_count];
        if (sscanf(line, "hang %63s gpu=%15s", word, gpu) == 2) code = HANG;
        else if (sscanf(line, "fail %63s gpu=%15s code=%d", word, gpu, &code) != 3) return;
        strcpy(rule->function, word);
        rule->gpu = gpu_of(gpu);
        rule->code = code;
        control.rule_count++;
    }
}

static void look_again(void) {
    struct timespec now;
    struct stat found;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long passed = (now.tv_sec - looked_at.tv_sec) * 1000000000L + now.tv_nsec - looked_at.tv_nsec;
    if (looked_at.tv_sec && passed < LOOK_AGAIN_NS) return;
    looked_at = now;
    const char *path = getenv("STOKER_TEST_NVML");
    if (!path || stat(path, &found) != 0) { if (!control.gpus) set_defaults(); return; }
    if (found.st_ino == seen.st_ino && found.st_mtim.tv_nsec == seen.st_mtim.tv_nsec && found.st_mtim.tv_sec == seen.st_mtim.tv_sec) return;
    seen = found;
    set_defaults();
    FILE *file = fopen(path, "r");
    char line[512];
    while (file && fgets(line, sizeof line, file)) take_line(line);
    if (file) fclose(file);
}

/* For a test in the same process: the next call looks at the file at once. */
void standin_obey_now(void) {
    pthread_mutex_lock(&lock);
    looked_at.tv_sec = 0;
    memset(&seen, 0, sizeof seen);
    pthread_mutex_unlock(&lock);
}

/* What the control file orders for this call: a code, SUCCESS, or HANG. The caller holds the lock. */
static int order(const char *function, int gpu) {
    for (int i = control.rule_count - 1; i >= 0; i--) {
        const struct rule *rule = &control.rules[i];
        if ((rule->gpu == ANY || rule->gpu == gpu) && (rule->function[0] == '*' || strcmp(rule->function, function) == 0))
            return rule->code;
    }
    return SUCCESS;
}

/* Begin a call: obey the control file. On SUCCESS the lock is held, and the caller ends with leave(). */
static int enter(const char *function, int gpu) {
    for (;;) {
        pthread_mutex_lock(&lock);
        look_again();
        int code = order(function, gpu);
        if (code == SUCCESS) return SUCCESS;
        pthread_mutex_unlock(&lock);
        if (code != HANG) return code;
        usleep(20000);
    }
}

static int leave(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}

#define ENTER(gpu) do { int code_ = enter(__func__, gpu); if (code_) return code_; \
    if (!references) return leave(UNINITIALIZED); } while (0)

/* --- the library --- */

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = enter(__func__, ANY);
    if (code) return code;
    references++;
    opened_gpus = control.gpus;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlShutdown(void) {
    ENTER(ANY);
    references--;
    return leave(SUCCESS);
}

const char *nvmlErrorString(nvmlReturn_t code) {
    switch (code) {
    case 3: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 999: return "Unknown Error";
    default: return "Some Error";
    }
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(ANY);
    *count = opened_gpus;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    ENTER((int)index);
    if ((int)index >= opened_gpus) return leave(INVALID_ARGUMENT);
    devices[index] = (struct device){index, WHOLE};
    *device = &devices[index];
    return leave(SUCCESS);
}

static int text(char *out, unsigned length, const char *value) {
    if (strlen(value) + 1 > length) return leave(INSUFFICIENT_SIZE);
    strcpy(out, value);
    return leave(SUCCESS);
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned length) {
    ENTER(ANY);
    return text(out, length, control.driver);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *out, unsigned length) {
    ENTER(device->index);
    if (device->slot != WHOLE || !control.serials[device->index][0]) return leave(NOT_SUPPORTED);
    return text(out, length, control.serials[device->index]);
}

nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *out, unsigned length) {
    ENTER(device->index);
    if (device->slot != WHOLE || !control.firmwares[device->index][0]) return leave(NOT_SUPPORTED);
    return text(out, length, control.firmwares[device->index]);
}

/* An instance of an old driver has its board's name; its profile is then put together from its attributes. */
#ifdef OLD_DRIVER
enum { PARTS_ARE_NAMED = 0 };
#else
enum { PARTS_ARE_NAMED = 1 };
#endif

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned length) {
    ENTER(device->index);
    if (device->slot == WHOLE || !PARTS_ARE_NAMED) return text(out, length, control.names[device->index]);
    char name[300];
    snprintf(name, sizeof name, "%s MIG %s", control.names[device->index], control.instances[device->index][device->slot].profile);
    return text(out, length, name);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned length) {
    ENTER(device->index);
    char uuid[64];
    snprintf(uuid, sizeof uuid, "GPU-00000000-0000-4000-8000-%012d", device->index);
    if (device->slot != WHOLE) snprintf(uuid, sizeof uuid, "MIG-00000000-0000-4000-8000-%06d%06d", device->index, device->slot);
    else if (control.uuids[device->index][0]) return text(out, length, control.uuids[device->index]);
    return text(out, length, uuid);
}

#define NUMBER(function, key) \
    nvmlReturn_t function(nvmlDevice_t device, unsigned *out) { \
        ENTER(device->index); \
        if (device->slot != WHOLE) return leave(NOT_SUPPORTED); \
        *out = control.values[device->index][key]; \
        return leave(SUCCESS); \
    }
NUMBER(nvmlDeviceGetPowerUsage, POWER_MW)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, LIMIT_MW)
NUMBER(nvmlDeviceGetMinorNumber, MINOR)
NUMBER(nvmlDeviceGetFanSpeed, FAN)
NUMBER(nvmlDeviceGetPerformanceState, PSTATE)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, LIMIT_DEFAULT)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, PCIE_GEN)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, PCIE_WIDTH)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, PCIE_GEN_MAX)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, PCIE_WIDTH_MAX)

#define SHARE(function, key) \
    nvmlReturn_t function(nvmlDevice_t device, unsigned *out, unsigned *period_us) { \
        ENTER(device->index); \
        *out = control.values[device->index][key]; \
        *period_us = 167000; \
        return leave(SUCCESS); \
    }
SHARE(nvmlDeviceGetEncoderUtilization, ENCODER)
SHARE(nvmlDeviceGetDecoderUtilization, DECODER)

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *least, unsigned *most) {
    ENTER(device->index);
    *least = control.values[device->index][LIMIT_MIN];
    *most = control.values[device->index][LIMIT_MAX];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned threshold, unsigned *out) {
    ENTER(device->index);
    if (threshold > 3) return leave(INVALID_ARGUMENT);
    *out = threshold == 3 ? 87 : threshold == 2 ? 95 : control.values[device->index][threshold == 0 ? SHUTDOWN : SLOWDOWN];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned clock, unsigned *out) {
    ENTER(device->index);
    if (clock != 1 && clock != 2) return leave(INVALID_ARGUMENT);
    *out = control.values[device->index][clock == 1 ? SM_MAX : MEM_MAX];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *out) {
    ENTER(device->index);
    *out = control.values[device->index][REASONS];
    return leave(SUCCESS);
}

#ifndef OLD_DRIVER
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *out) {
    ENTER(device->index);
    *out = control.values[device->index][REASONS];
    return leave(SUCCESS);
}
#endif

/* Of the board's life as many as since the driver was loaded. */
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned kind, unsigned counter, unsigned long long *out) {
    ENTER(device->index);
    if (kind > 1 || counter > 1) return leave(INVALID_ARGUMENT);
    if (device->slot != WHOLE) return leave(NOT_SUPPORTED);
    *out = control.values[device->index][kind ? ECC_UNCORRECTED : ECC_CORRECTED];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *out) {
    ENTER(device->index);
    if (device->slot != WHOLE) return leave(NOT_SUPPORTED);
    *out = control.values[device->index][ENERGY_MJ];
    return leave(SUCCESS);
}

static void fill_pci(nvmlPciInfo_t *out, int gpu) {
    memset(out, 0, sizeof *out);
    out->bus = FIRST_BUS + gpu;
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *out) {
    ENTER(device->index);
    fill_pci(out, device->index);
    return leave(SUCCESS);
}

/* --- what it is connected to --- */

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, unsigned *active) {
    ENTER(device->index);
    int to = link < LINKS_MAX ? control.links[device->index][link] : NO_LINK;
    if (to == NO_LINK) return leave(link < LINKS_MAX ? NOT_SUPPORTED : INVALID_ARGUMENT);
    *active = to != LINK_OFF;
    return leave(SUCCESS);
}

#ifndef OLD_DRIVER
nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned link, unsigned *type) {
    ENTER(device->index);
    *type = control.links[device->index][link] == TO_SWITCH ? 2 : 0;
    return leave(SUCCESS);
}
#endif

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned link, nvmlPciInfo_t *out) {
    ENTER(device->index);
    int to = control.links[device->index][link];
    fill_pci(out, to == TO_SWITCH ? 0x40 : to);
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t one, nvmlDevice_t other, unsigned *level) {
    ENTER(one->index);
    *level = control.levels[one->index][other->index];
    return leave(SUCCESS);
}

/* --- MIG --- */

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *now, unsigned *pending) {
    ENTER(device->index);
    *now = *pending = control.mig[device->index];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count) {
    ENTER(device->index);
    *count = SLOTS_MAX;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned slot, nvmlDevice_t *out) {
    ENTER(device->index);
    if (slot >= SLOTS_MAX) return leave(INVALID_ARGUMENT);
    if (!control.instances[device->index][slot].profile[0]) return leave(NOT_FOUND);
    parts[device->index][slot] = (struct device){device->index, slot};
    *out = &parts[device->index][slot];
    return leave(SUCCESS);
}

/* A destroyed instance keeps its handle in the caller's hand; every call with it then says so. */
#define CHECK_PART(device) do { if ((device)->slot != WHOLE && !control.instances[(device)->index][(device)->slot].profile[0]) \
    return leave(INVALID_ARGUMENT); } while (0)

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *out) {
    ENTER(device->index);
    CHECK_PART(device);
    if (device->slot == WHOLE) return leave(INVALID_ARGUMENT);
    *out = device->slot + 7;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *out) {
    ENTER(device->index);
    CHECK_PART(device);
    if (device->slot == WHOLE) return leave(INVALID_ARGUMENT);
    *out = device->slot;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *out) {
    ENTER(device->index);
    CHECK_PART(device);
    if (device->slot == WHOLE) return leave(NOT_SUPPORTED);
    const struct instance *part = &control.instances[device->index][device->slot];
    memset(out, 0, sizeof *out);
    if (sscanf(part->profile, "%uc.%ug.", &out->compute_slices, &out->gpu_slices) != 2) {
        if (sscanf(part->profile, "%ug.", &out->gpu_slices) != 1) return leave(NOT_SUPPORTED);
        out->compute_slices = out->gpu_slices;
    }
    out->memory_mb = part->total >> 20;
    return leave(SUCCESS);
}

/* --- what it does --- */

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *out) {
    ENTER(device->index);
    if (sensor != 0) return leave(INVALID_ARGUMENT);
    *out = control.values[device->index][TEMP];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int clock, unsigned *out) {
    ENTER(device->index);
    if (clock != 1 && clock != 2) return leave(INVALID_ARGUMENT);
    *out = control.values[device->index][clock == 1 ? SM_MHZ : MEM_MHZ];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out) {
    ENTER(device->index);
    if (device->slot != WHOLE) return leave(NOT_SUPPORTED);
    out->gpu = control.values[device->index][UTIL];
    out->memory = control.values[device->index][MEM_UTIL];
    return leave(SUCCESS);
}

static int processes(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out, const struct process *all, int all_count) {
    unsigned capacity = *count, found = 0;
    for (int i = 0; i < all_count; i++)
        if (all[i].gpu == device->index && (device->slot == WHOLE || all[i].slot == device->slot) && found++ < capacity && out)
            out[found - 1] = (nvmlProcessInfo_t){all[i].pid, all[i].memory, ~0u, ~0u};
    *count = found;
    return leave(found > capacity && !control.overtells ? INSUFFICIENT_SIZE : SUCCESS);
}

#ifdef OLD_DRIVER
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, unsigned long long out[3]) {
    ENTER(device->index);
    out[0] = control.values[device->index][TOTAL];
    out[2] = control.values[device->index][USED];
    out[1] = out[0] - out[2];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out) {
    ENTER(device->index);
    return processes(device, count, out, control.processes, control.process_count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out) {
    ENTER(device->index);
    if (device->slot != WHOLE) return leave(NOT_SUPPORTED);
    return processes(device, count, out, control.graphics, control.graphics_count);
}
#else
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out) {
    ENTER(device->index);
    if (out->version != (sizeof *out | 2u << 24)) return leave(25);
    CHECK_PART(device);
    const struct instance *part = device->slot == WHOLE ? NULL : &control.instances[device->index][device->slot];
    out->total = part ? part->total : control.values[device->index][TOTAL];
    out->used = part ? part->used : control.values[device->index][USED];
    out->reserved = part ? 0 : control.values[device->index][RESERVED];
    out->free = out->total - out->used;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out) {
    ENTER(device->index);
    return processes(device, count, out, control.processes, control.process_count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out) {
    ENTER(device->index);
    if (device->slot != WHOLE) return leave(NOT_SUPPORTED);
    return processes(device, count, out, control.graphics, control.graphics_count);
}

/* --- general performance monitoring --- */

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, unsigned out[2]) {
    ENTER(device->index);
    if (out[0] != 1) return leave(25);
    out[1] = !control.gpm_off[device->index];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *out) {
    ENTER(ANY);
    *out = calloc(1, sizeof **out);
    return leave(SUCCESS);
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample) {
    static unsigned number;
    ENTER(device->index);
    *sample = (struct sample){device->index, ++number};
    return leave(SUCCESS);
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned instance, nvmlGpmSample_t sample) {
    static unsigned number;
    ENTER(device->index);
    int slot = (int)instance - 7;
    if (device->slot != WHOLE || !in(slot, SLOTS_MAX) || !control.instances[device->index][slot].profile[0])
        return leave(INVALID_ARGUMENT);
    *sample = (struct sample){device->index, ++number};
    return leave(SUCCESS);
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get) {
    ENTER(get->to ? get->to->gpu : ANY);
    if (get->version != 1 || !get->from || !get->from->number || get->from->gpu != get->to->gpu || get->from->number >= get->to->number)
        return leave(INVALID_ARGUMENT);
    for (unsigned i = 0; i < get->count; i++) {
        nvmlGpmMetric_t *metric = &get->metrics[i];
        metric->code = SUCCESS;
        metric->value = 5.5 * metric->id;
        for (int j = 0; j < control.metric_count; j++)
            if ((control.metrics[j].gpu == ANY || control.metrics[j].gpu == get->to->gpu) && control.metrics[j].id == metric->id)
                metric->value = control.metrics[j].value;
    }
    return leave(SUCCESS);
}
#endif

#ifndef OLD_DRIVER
/* --- events --- */

/* What each set was told already: the greatest number. Unlike the driver's, a set is told also what came before it, so that
   no test races with a listener's start. */
typedef struct set { unsigned told; int folder; unsigned long long types[GPUS_MAX]; } *nvmlEventSet_t;
typedef struct { nvmlDevice_t device; unsigned long long type, data; unsigned instance, compute_instance; } nvmlEventData_t;

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *out) {
    ENTER(device->index);
    *out = 0x7e1f;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out) {
    ENTER(ANY);
    *out = calloc(1, sizeof **out);
    char path[4096] = "";
    strncpy(path, getenv("STOKER_TEST_NVML") ? getenv("STOKER_TEST_NVML") : "", sizeof path - 1);
    (*out)->folder = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if ((*out)->folder >= 0) inotify_add_watch((*out)->folder, dirname(path), IN_MOVED_TO);
    looked_at.tv_sec = 0; /* what came before the watch is seen by the next look, which else is not due for 20 ms */
    return leave(SUCCESS);
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    ENTER(ANY);
    if (set->folder >= 0) close(set->folder);
    free(set);
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
    ENTER(device->index);
    if (!types || types & ~(unsigned long long)0x7fff) return leave(INVALID_ARGUMENT);
    set->types[device->index] |= types;
    return leave(SUCCESS);
}

/* The next event that this set is to be told, under the lock. */
static const struct event *next_event(const struct set *set) {
    const struct event *next = NULL;
    for (int i = 0; i < control.event_count; i++) {
        const struct event *each = &control.events[i];
        if (each->number > set->told && in(each->gpu, GPUS_MAX) && set->types[each->gpu] & each->type && (!next || each->number < next->number))
            next = each;
    }
    return next;
}

/* Until the control file is another one, or for so long; without inotify for 20 ms. Like the driver's, it costs nothing. */
static unsigned wait_change(const struct set *set, unsigned most_ms) {
    char news[4096];
    struct pollfd one = {set->folder, POLLIN, 0};
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    poll(&one, set->folder >= 0, set->folder >= 0 ? most_ms : 20);
    while (set->folder >= 0 && read(set->folder, news, sizeof news) > 0) continue;
    clock_gettime(CLOCK_MONOTONIC, &to);
    pthread_mutex_lock(&lock);
    looked_at.tv_sec = 0;
    pthread_mutex_unlock(&lock);
    return (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
}

/* Before R450 an event had no instances, and the caller's room for them stays as it was. */
#ifdef OLD_EVENTS
nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *out, unsigned timeout_ms) {
#else
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *out, unsigned timeout_ms) {
#endif
    for (unsigned waited = 0;;) {
        int gpu = 0;
        while (gpu < GPUS_MAX - 1 && !set->types[gpu]) gpu++;
        ENTER(gpu);
        const struct event *next = next_event(set);
        if (next) {
            set->told = next->number;
            devices[next->gpu] = (struct device){next->gpu, WHOLE};
            out->device = &devices[next->gpu];
            out->type = next->type;
            out->data = next->data;
#ifndef OLD_EVENTS
            out->instance = next->instance;
            out->compute_instance = ~0u;
#endif
            return leave(SUCCESS);
        }
        leave(SUCCESS);
        if (waited >= timeout_ms) return TIMED_OUT;
        waited += wait_change(set, timeout_ms - waited);
    }
}
#endif

/* --- many values in one call --- */

static unsigned links_of(int gpu) {
    unsigned found = 0;
    for (int link = 0; link < LINKS_MAX; link++) found += control.links[gpu][link] != NO_LINK;
    return found;
}

/* What a field says where the control file says nothing: a board of the Hopper kind. */
static int usual(int gpu, nvmlFieldValue_t *out) {
    const unsigned long long *values = control.values[gpu];
    int link = out->scope < LINKS_MAX ? control.links[gpu][out->scope] : NO_LINK;
    out->type = VALUE_ULL;
    out->value.ull = 0;
    switch (out->id) {
    case 3: case 4: case 5: case 6: case 74: case 75: case 76: case 77: case 79: case 142: case 197: case 198: case 230: return SUCCESS;
    case 82: out->type = VALUE_UINT; out->value = (nvmlValue_t){.u = 50 + gpu}; return SUCCESS;
    case 91: out->type = VALUE_UINT; out->value = (nvmlValue_t){.u = links_of(gpu)}; return SUCCESS;
    case 94: out->value.ull = values[REPLAYS]; return SUCCESS;
    case 138: case 139: return out->scope != ~0u ? INVALID_ARGUMENT : links_of(gpu) ? SUCCESS : NOT_SUPPORTED;
    case 143: out->value.ull = values[REMAPPED]; return SUCCESS;
    case 144: out->value.ull = values[PENDING]; return SUCCESS;
    case 145: out->value.ull = values[FAILED]; return SUCCESS;
    case 161: case 162: case 163: return link == NO_LINK ? NOT_SUPPORTED : SUCCESS;
    case 165: out->value.ull = link != LINK_OFF; return link == NO_LINK ? NOT_SUPPORTED : SUCCESS;
    default: return NOT_SUPPORTED;
    }
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *out) {
    ENTER(device->index);
    for (nvmlFieldValue_t *each = out; each < out + count; each++) {
        int i = control.field_count - 1;
        const struct field *field = control.fields;
        for (; i >= 0; i--) {
            field = &control.fields[i];
            if ((field->gpu == ANY || field->gpu == device->index) && field->id == each->id && (field->any_scope || field->scope == each->scope)) break;
        }
        if (i < 0) each->code = usual(device->index, each);
        else {
            each->code = field->code;
            each->type = field->type;
            each->value = field->value;
        }
    }
    return leave(SUCCESS);
}

/* --- rings --- */

/* While they go on by themselves, the second after the last one seen is full. */
static unsigned go_on(int gpu, int ring, unsigned long long last, unsigned room, nvmlSample_t *out) {
    unsigned a_second = control.ring_pace[ring], found = 0;
    for (; found < a_second && found < room; found++) {
        out[found].at = last + (found + 1) * 1000000ULL / a_second;
        out[found].value.u = ring == 0 ? control.values[gpu][POWER_MW] + found : control.values[gpu][ring == 1 ? UTIL : MEM_UTIL];
    }
    return found;
}

nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, unsigned ring, unsigned long long last, unsigned *type, unsigned *count, nvmlSample_t *out) {
    ENTER(device->index);
    if (ring >= RINGS) return leave(NOT_SUPPORTED);
    *type = control.sample_type;
    if (!out) {
        *count = control.ring_room[ring];
        return leave(SUCCESS);
    }
    unsigned found = control.going ? go_on(device->index, ring, last, *count, out) : 0;
    for (int i = 0; i < control.sample_count && found < *count; i++) {
        const struct ring_sample *sample = &control.samples[i];
        if (sample->gpu == device->index && sample->ring == (int)ring && sample->at > last)
            out[found++] = (nvmlSample_t){sample->at, sample->value};
    }
    if (control.overtells && control.going && found == *count) found = control.ring_pace[ring];
    *count = found;
    return leave(found ? SUCCESS : NOT_FOUND);
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *out, unsigned *count, unsigned long long last) {
    ENTER(device->index);
    if (device->slot != WHOLE) return leave(NOT_SUPPORTED);
    unsigned room = *count, found = 0;
    for (int i = 0; control.going && i < control.process_count; i++)
        if (control.processes[i].gpu == device->index && found++ < room)
            out[found - 1] = (nvmlProcessUtilizationSample_t){control.processes[i].pid, last + 900000, 50, 20, 0, 0};
    for (int i = 0; i < control.use_count; i++)
        if (control.uses[i].gpu == device->index && control.uses[i].at > last && found++ < room)
            out[found - 1] = (nvmlProcessUtilizationSample_t){control.uses[i].pid, control.uses[i].at, control.uses[i].sm, 0, 0, 0};
    *count = found;
    return leave(found > room && !control.overtells ? INSUFFICIENT_SIZE : found ? SUCCESS : NOT_FOUND);
}

#ifdef PEERS
#include "peers.h"
#endif
