/*
 * The four functions of cfgmgr32.dll that xenstore-client needs, for a Wine that has none of them (8.0: a stub that finds
 * nothing, one that aborts, and two that are not there). What there is to find is Wine's: its setupapi is asked.
 * For tests under Wine alone; only a program in this file's folder loads it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <windows.h>
#include <setupapi.h>

enum { SUCCESS = 0, BUFFER_SMALL = 0x1a, FAILURE = 0x13, NOT_IMPLEMENTED = 0x20 };

/* CM_GET_DEVICE_INTERFACE_LIST_PRESENT is 0, _ALL_DEVICES is 1. */
static DWORD list(const GUID *class, WCHAR *buffer, ULONG room, ULONG flags, ULONG *needed)
{
    union {
        SP_DEVICE_INTERFACE_DETAIL_DATA_W data;
        BYTE space[4096];
    } detail;
    SP_DEVICE_INTERFACE_DATA found = {.cbSize = sizeof(found)};
    HDEVINFO set = SetupDiGetClassDevsW(class, NULL, NULL, DIGCF_DEVICEINTERFACE | (flags & 1 ? 0 : DIGCF_PRESENT));
    DWORD i, outcome = SUCCESS;
    ULONG length = 0;

    if (set == INVALID_HANDLE_VALUE)
        return FAILURE;
    for (i = 0; SetupDiEnumDeviceInterfaces(set, NULL, class, i, &found); i++) {
        ULONG characters;

        detail.data.cbSize = sizeof(detail.data);
        if (!SetupDiGetDeviceInterfaceDetailW(set, &found, &detail.data, sizeof(detail), NULL, NULL)) {
            outcome = FAILURE;
            break;
        }
        characters = lstrlenW(detail.data.DevicePath) + 1;
        if (buffer && length + characters < room)
            memcpy(buffer + length, detail.data.DevicePath, characters * sizeof(WCHAR));
        length += characters;
    }
    SetupDiDestroyDeviceInfoList(set);
    if (buffer && length < room)
        buffer[length] = 0;
    else if (buffer && outcome == SUCCESS)
        outcome = BUFFER_SMALL;
    if (needed)
        *needed = length + 1;
    return outcome;
}

__declspec(dllexport) DWORD WINAPI CM_Get_Device_Interface_List_SizeW(ULONG *length, GUID *class, WCHAR *device, ULONG flags)
{
    return device ? NOT_IMPLEMENTED : list(class, NULL, 0, flags, length);
}

__declspec(dllexport) DWORD WINAPI CM_Get_Device_Interface_ListW(GUID *class, WCHAR *device, WCHAR *buffer, ULONG room,
                                                                  ULONG flags)
{
    return device ? NOT_IMPLEMENTED : list(class, buffer, room, flags, NULL);
}

/* Nobody removes a device here. */
__declspec(dllexport) DWORD WINAPI CM_Register_Notification(void *filter, void *context, void *callback, void **notification)
{
    (void)filter; (void)context; (void)callback; (void)notification;
    return NOT_IMPLEMENTED;
}

__declspec(dllexport) DWORD WINAPI CM_Unregister_Notification(void *notification)
{
    (void)notification;
    return NOT_IMPLEMENTED;
}
