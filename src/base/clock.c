/* clock.c - monotonic time, and memory figures from the system. */
#include "base/clock.h"

#include "base/file.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

double mica_clock_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

uint64_t mica_clock_peak_rss(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
#if defined(__APPLE__)
    return (uint64_t)usage.ru_maxrss; /* bytes there, kilobytes elsewhere */
#else
    return (uint64_t)usage.ru_maxrss * 1024;
#endif
}

uint64_t mica_clock_available_memory(void)
{
    static const char key[] = "MemAvailable:";
    char *text = NULL;
    size_t size = 0;
    if (mica_file_read("/proc/meminfo", 1 << 16, &text, &size, NULL) != MICA_OK)
        return 0;
    const char *line = strstr(text, key);
    const uint64_t kilobytes = line ? strtoull(line + sizeof key - 1, NULL, 10) : 0;
    mica_mem_free(text);
    return kilobytes * 1024;
}
