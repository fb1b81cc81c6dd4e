/*
 * Wine's newdev.dll does nothing in DiInstallDriver and lacks the calls that uninstall. This one does of it what can be seen
 * by a test: the package is published, its driver is in the service manager, and each call stands in C:\newdev.log.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <windows.h>
#include <setupapi.h>
#include <stdio.h>
#include <wchar.h>

static void note(const char *what, const WCHAR *text)
{
    FILE *log = fopen("C:\\newdev.log", "a");

    if (log) {
        fprintf(log, "%s %ls\n", what, text);
        fclose(log);
    }
}

/* The driver's name is its INF's. */
static void name_of(const WCHAR *inf, WCHAR *name)
{
    const WCHAR *file = wcsrchr(inf, '\\');
    WCHAR *end;

    wcsncpy(name, file ? file + 1 : inf, 63);
    name[63] = 0;
    end = wcsrchr(name, '.');
    if (end)
        *end = 0;
}

/* Whether two files have the same bytes; INFs are small. */
static BOOL same(const WCHAR *one, const WCHAR *other)
{
    static char first[65536], second[65536];
    FILE *a = _wfopen(one, L"rb"), *b = _wfopen(other, L"rb");
    size_t first_size = a ? fread(first, 1, sizeof(first), a) : 0;
    size_t second_size = b ? fread(second, 1, sizeof(second), b) : 0;

    if (a)
        fclose(a);
    if (b)
        fclose(b);
    return a && b && first_size == second_size && !memcmp(first, second, first_size);
}

/* Publishes an INF under the first number that is free, unless it is there. */
static BOOL publish(const WCHAR *inf)
{
    WCHAR path[64];
    int number;

    for (number = 0; number < 100; number++) {
        swprintf(path, 64, L"C:\\windows\\inf\\oem%d.inf", number);
        if (same(inf, path))
            return TRUE;
    }
    for (number = 0; number < 100; number++) {
        swprintf(path, 64, L"C:\\windows\\inf\\oem%d.inf", number);
        if (CopyFileW(inf, path, TRUE))
            return TRUE;
    }
    return FALSE;
}

BOOL WINAPI DiInstallDriverW(HWND window, const WCHAR *inf, DWORD flags, BOOL *restart)
{
    WCHAR name[64], image[256], key[128];
    SC_HANDLE manager, service;
    HKEY parameters;

    (void)window;
    (void)flags;
    note("install", inf);
    if (!publish(inf))
        return FALSE;
    name_of(inf, name);
    swprintf(image, 256, L"\\SystemRoot\\System32\\DriverStore\\FileRepository\\%ls.inf_amd64_0\\%ls.sys", name, name);
    manager = OpenSCManagerW(NULL, NULL, SC_MANAGER_CREATE_SERVICE);
    if (!manager)
        return FALSE;
    service = CreateServiceW(manager, name, name, SERVICE_ALL_ACCESS, SERVICE_KERNEL_DRIVER, SERVICE_BOOT_START,
                             SERVICE_ERROR_NORMAL, image, NULL, NULL, NULL, NULL, NULL);
    if (service)
        CloseServiceHandle(service);
    CloseServiceHandle(manager);
    swprintf(key, 128, L"SYSTEM\\CurrentControlSet\\Services\\%ls\\Parameters", name);
    if (RegCreateKeyW(HKEY_LOCAL_MACHINE, key, &parameters) == ERROR_SUCCESS)
        RegCloseKey(parameters);
    if (restart)
        *restart = TRUE;
    return TRUE;
}

BOOL WINAPI DiUninstallDriverW(HWND window, const WCHAR *inf, DWORD flags, BOOL *restart)
{
    (void)window;
    (void)flags;
    note("uninstall", inf);
    if (restart)
        *restart = TRUE;
    return DeleteFileW(inf);
}

BOOL WINAPI DiUninstallDevice(HWND window, HDEVINFO set, SP_DEVINFO_DATA *device, DWORD flags, BOOL *restart)
{
    (void)window;
    (void)device;
    (void)flags;
    note("device", set == INVALID_HANDLE_VALUE ? L"none" : L"one");
    if (restart)
        *restart = TRUE;
    return TRUE;
}
