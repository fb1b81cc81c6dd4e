; The installer: asks, unpacks, and has setup.exe do everything else. Made by `cargo xtask dist`.
; SPDX-License-Identifier: GPL-2.0-or-later
;
; VERSION   1.2.3
; PACKAGE   the folder of the package: package.json and the files it names
; OUT       what is made
; SIGN      a program that signs the file named by its argument; not defined: nothing is signed
;
; Switches: /S (silent), /COMPONENTS=disk,network,stub,boot,service, /TESTSIGNING, /LOG=file, /CHECK, /UNINSTALL.
; The uninstaller's: /S, /LOG=file.
; Exit codes: setup.exe's (docs/install.md); 1: the user cancelled.

Unicode true
Target amd64-unicode
!include MUI2.nsh
!include FileFunc.nsh
!include LogicLib.nsh
!include Sections.nsh
!include WordFunc.nsh

Name "Xen PV drivers"
OutFile "${OUT}"
InstallDir "$PROGRAMFILES64\Xen PV"
RequestExecutionLevel admin
SetCompressor /SOLID lzma
; The same files make the same bytes.
SetDateSave off
CRCCheck force
ManifestSupportedOS Win10
BrandingText "Xen PV drivers ${VERSION}"
VIProductVersion "${VERSION}.0"
VIAddVersionKey ProductName "Xen PV drivers"
VIAddVersionKey FileDescription "Xen PV drivers setup"
VIAddVersionKey FileVersion "${VERSION}"
VIAddVersionKey ProductVersion "${VERSION}"
VIAddVersionKey LegalCopyright "GPL-2.0-or-later"
!ifdef SIGN
  !uninstfinalize '"${SIGN}" "%1"'
!endif

!define MUI_COMPONENTSPAGE_SMALLDESC
!define MUI_FINISHPAGE_NOAUTOCLOSE
!define MUI_FINISHPAGE_TEXT "Details stand in xen-pv-setup.log in the folder of temporary files."
!insertmacro MUI_PAGE_WELCOME
!insertmacro MUI_PAGE_COMPONENTS
!insertmacro MUI_PAGE_INSTFILES
!insertmacro MUI_PAGE_FINISH
!insertmacro MUI_UNPAGE_CONFIRM
!insertmacro MUI_UNPAGE_INSTFILES
!insertmacro MUI_UNPAGE_FINISH
!insertmacro MUI_LANGUAGE "English"

Var parameters
Var components
Var arguments
Var code

; Runs setup.exe of the folder, and ends with its exit code.
!macro RunSetup folder
  nsExec::ExecToLog '"${folder}\setup.exe" $arguments'
  Pop $code
  ${If} $code == "error"
    StrCpy $code 10
  ${EndIf}
  SetErrorLevel $code
  ${If} $code == 3010
    SetRebootFlag true
  ${ElseIf} $code != 0
    MessageBox MB_OK|MB_ICONSTOP "This did not work (exit code $code). The details window and xen-pv-setup.log in the \
      folder of temporary files say why, and what to do." /SD IDOK
    SetDetailsView show
    ${If} ${Silent}
      Quit
    ${EndIf}
    Abort
  ${EndIf}
!macroend

; Takes /LOG= over.
!macro TakeLog
  ${GetParameters} $parameters
  ClearErrors
  ${GetOptions} $parameters "/LOG=" $0
  ${IfNot} ${Errors}
    StrCpy $arguments '$arguments --log "$0"'
  ${EndIf}
!macroend

; Hands every word that is not in KNOWN ("/A /B=") to setup.exe, which refuses it: a switch that is misspelt is not taken for
; none. One that ends with "=" has a value.
!macro RefuseUnknown known
  StrCpy $0 $parameters 1
  ${If} $0 != ""
  ${AndIf} $0 != "/"
    StrCpy $arguments '$arguments "$parameters"'
  ${EndIf}
  StrCpy $1 0
  ${Do}
    IntOp $1 $1 + 1
    ClearErrors
    ${WordFind} " $parameters" " /" "E+$1" $0
    ${If} ${Errors}
      ${ExitDo}
    ${EndIf}
    ${WordFind} $0 "=" "+1" $2
    ${If} $2 != $0
      StrCpy $2 "$2="
    ${EndIf}
    ; The blanks before the next one.
    ${Do}
      StrCpy $3 $2 1 -1
      ${If} $3 != " "
        ${ExitDo}
      ${EndIf}
      StrCpy $2 $2 -1
    ${Loop}
    ClearErrors
    ${GetOptions} "${known}" "/$2" $3
    ${If} ${Errors}
    ${OrIf} $3 != ""
      StrCpy $arguments '$arguments "/$0"'
    ${EndIf}
  ${Loop}
!macroend

Section "Xen platform bus" SecBus
  SectionIn RO
SectionEnd
Section "Disks" SecDisk
SectionEnd
Section "Network cards" SecNetwork
SectionEnd
Section "Unused devices" SecStub
SectionEnd
Section "Boot from paravirtual disks" SecBoot
SectionEnd
Section "Shutdown service" SecService
SectionEnd

!macro AddComponent section name
  ${If} ${SectionIsSelected} ${section}
    StrCpy $components "$components,${name}"
  ${EndIf}
!macroend

Section "-install"
  InitPluginsDir
  SetOutPath "$PLUGINSDIR\package"
  File /r "${PACKAGE}/*"
  WriteUninstaller "$PLUGINSDIR\package\uninstall.exe"
  ; Windows removes no folder that a program stands in.
  SetOutPath "$TEMP"
  ${GetParameters} $parameters
  ClearErrors
  ${GetOptions} $parameters "/UNINSTALL" $0
  ${IfNot} ${Errors}
    StrCpy $arguments "uninstall"
  ${Else}
    StrCpy $arguments "install"
    ClearErrors
    ${GetOptions} $parameters "/CHECK" $0
    ${IfNot} ${Errors}
      StrCpy $arguments "check"
    ${EndIf}
    StrCpy $components ""
    !insertmacro AddComponent ${SecDisk} "disk"
    !insertmacro AddComponent ${SecNetwork} "network"
    !insertmacro AddComponent ${SecStub} "stub"
    !insertmacro AddComponent ${SecBoot} "boot"
    !insertmacro AddComponent ${SecService} "service"
    StrCpy $components $components "" 1
    ClearErrors
    ${GetOptions} $parameters "/COMPONENTS=" $0
    ${IfNot} ${Errors}
      StrCpy $components $0
    ${EndIf}
    StrCpy $arguments '$arguments --package "$PLUGINSDIR\package" --components "$components"'
    ClearErrors
    ${GetOptions} $parameters "/TESTSIGNING" $0
    ${IfNot} ${Errors}
      StrCpy $arguments "$arguments --test-signing"
    ${EndIf}
  ${EndIf}
  !insertmacro TakeLog
  !insertmacro RefuseUnknown "/S /COMPONENTS= /TESTSIGNING /CHECK /UNINSTALL /LOG="
  !insertmacro RunSetup "$PLUGINSDIR\package"
SectionEnd

!insertmacro MUI_FUNCTION_DESCRIPTION_BEGIN
  !insertmacro MUI_DESCRIPTION_TEXT ${SecBus} "The bus that everything else hangs on."
  !insertmacro MUI_DESCRIPTION_TEXT ${SecDisk} "The driver of paravirtual disks."
  !insertmacro MUI_DESCRIPTION_TEXT ${SecNetwork} "The driver of paravirtual network cards."
  !insertmacro MUI_DESCRIPTION_TEXT ${SecStub} "Keeps devices that Windows has no use for out of the list of unknown ones."
  !insertmacro MUI_DESCRIPTION_TEXT ${SecBoot} "A boot entry that uses the paravirtual devices; the emulated ones stay the way back."
  !insertmacro MUI_DESCRIPTION_TEXT ${SecService} "Shuts Windows down when the host wants it, and has the next boot use the paravirtual devices once they work."
!insertmacro MUI_FUNCTION_DESCRIPTION_END

Section "Uninstall"
  InitPluginsDir
  ; Not from the folder that goes away.
  SetOutPath "$PLUGINSDIR"
  File "${PACKAGE}/setup.exe"
  SetOutPath "$TEMP"
  StrCpy $arguments "uninstall"
  !insertmacro TakeLog
  !insertmacro RefuseUnknown "/S /LOG="
  !insertmacro RunSetup "$PLUGINSDIR"
SectionEnd
