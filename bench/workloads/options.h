// How the first process of a benchmark's guest is told what to run.
#pragma once
#include <stdlib.h>
#include <string.h>

// True when `name` is one of the comma-separated `names`, or these are null.
static int chosen(const char *names, const char *name)
{
    if (!names) return 1;
    size_t length = strlen(name);
    for (const char *p = names; (p = strstr(p, name)) != NULL; p += length) {
        if ((p == names || p[-1] == ',') && strchr(", \n", p[length])) return 1; // strchr finds the terminating 0 too
    }
    return 0;
}

// The text behind NAME= on the kernel's command line, or null.
static char *kernel_option(char *line, const char *name)
{
    char *at = strstr(line, name);
    if (!at) return NULL;
    at = strdup(at + strlen(name));
    at[strcspn(at, " \n")] = 0;
    return at;
}
