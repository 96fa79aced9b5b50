using System.Collections.Frozen;
using System.Numerics;

namespace Bunraku.Engines.X86;

/// <summary>Names of VMX as Intel's manual spells them, for people.</summary>
/// <remarks>Intel SDM vol. 3C, "Virtual-Machine Control Structures"; vol. 3D, appendix "Field Encoding in VMCS".</remarks>
public static class VmxNames
{
    /// <summary>Names that are not the words of the identifier.</summary>
    private static readonly FrozenDictionary<VmcsField, string> s_fields = new Dictionary<VmcsField, string>
    {
        [VmcsField.VirtualProcessorIdentifier] = "Virtual-processor identifier (VPID)",
        [VmcsField.PostedInterruptNotificationVector] = "Posted-interrupt notification vector",
        [VmcsField.IoBitmapA] = "Address of I/O bitmap A",
        [VmcsField.IoBitmapB] = "Address of I/O bitmap B",
        [VmcsField.MsrBitmaps] = "Address of MSR bitmaps",
        [VmcsField.ExitMsrStoreAddress] = "VM-exit MSR-store address",
        [VmcsField.ExitMsrLoadAddress] = "VM-exit MSR-load address",
        [VmcsField.EntryMsrLoadAddress] = "VM-entry MSR-load address",
        [VmcsField.ExecutiveVmcsPointer] = "Executive-VMCS pointer",
        [VmcsField.VirtualApicAddress] = "Virtual-APIC address",
        [VmcsField.ApicAccessAddress] = "APIC-access address",
        [VmcsField.PostedInterruptDescriptor] = "Posted-interrupt descriptor address",
        [VmcsField.VmFunctionControls] = "VM-function controls",
        [VmcsField.EoiExitBitmap0] = "EOI-exit bitmap 0",
        [VmcsField.EoiExitBitmap1] = "EOI-exit bitmap 1",
        [VmcsField.EoiExitBitmap2] = "EOI-exit bitmap 2",
        [VmcsField.EoiExitBitmap3] = "EOI-exit bitmap 3",
        [VmcsField.EptpListAddress] = "EPTP-list address",
        [VmcsField.VmreadBitmap] = "VMREAD-bitmap address",
        [VmcsField.VmwriteBitmap] = "VMWRITE-bitmap address",
        [VmcsField.VirtualizationExceptionAddress] = "Virtualization-exception information address",
        [VmcsField.XssExitingBitmap] = "XSS-exiting bitmap",
        [VmcsField.GuestPhysicalAddress] = "Guest-physical address",
        [VmcsField.PinBasedControls] = "Pin-based VM-execution controls",
        [VmcsField.ProcessorBasedControls] = "Primary processor-based VM-execution controls",
        [VmcsField.SecondaryControls] = "Secondary processor-based VM-execution controls",
        [VmcsField.PageFaultErrorCodeMask] = "Page-fault error-code mask",
        [VmcsField.PageFaultErrorCodeMatch] = "Page-fault error-code match",
        [VmcsField.Cr3TargetCount] = "CR3-target count",
        [VmcsField.Cr3Target0] = "CR3-target value 0",
        [VmcsField.Cr3Target1] = "CR3-target value 1",
        [VmcsField.Cr3Target2] = "CR3-target value 2",
        [VmcsField.Cr3Target3] = "CR3-target value 3",
        [VmcsField.ExitControls] = "VM-exit controls",
        [VmcsField.ExitMsrStoreCount] = "VM-exit MSR-store count",
        [VmcsField.ExitMsrLoadCount] = "VM-exit MSR-load count",
        [VmcsField.EntryControls] = "VM-entry controls",
        [VmcsField.EntryMsrLoadCount] = "VM-entry MSR-load count",
        [VmcsField.EntryInterruptionInformation] = "VM-entry interruption-information field",
        [VmcsField.EntryExceptionErrorCode] = "VM-entry exception error code",
        [VmcsField.EntryInstructionLength] = "VM-entry instruction length",
        [VmcsField.PleGap] = "PLE_Gap",
        [VmcsField.PleWindow] = "PLE_Window",
        [VmcsField.InstructionError] = "VM-instruction error",
        [VmcsField.ExitInterruptionInformation] = "VM-exit interruption information",
        [VmcsField.ExitInterruptionErrorCode] = "VM-exit interruption error code",
        [VmcsField.IdtVectoringInformation] = "IDT-vectoring information field",
        [VmcsField.IdtVectoringErrorCode] = "IDT-vectoring error code",
        [VmcsField.ExitInstructionLength] = "VM-exit instruction length",
        [VmcsField.ExitInstructionInformation] = "VM-exit instruction information",
        [VmcsField.GuestInterruptibility] = "Guest interruptibility state",
        [VmcsField.GuestActivity] = "Guest activity state",
        [VmcsField.PreemptionTimer] = "VMX-preemption timer value",
        [VmcsField.Cr0Mask] = "CR0 guest/host mask",
        [VmcsField.Cr4Mask] = "CR4 guest/host mask",
        [VmcsField.Cr0Shadow] = "CR0 read shadow",
        [VmcsField.Cr4Shadow] = "CR4 read shadow",
        [VmcsField.GuestLinearAddress] = "Guest-linear address",
        [VmcsField.GuestPendingDebug] = "Guest pending debug exceptions",
    }.ToFrozenDictionary();

    /// <summary>Words that are not spelled as a word is.</summary>
    private static readonly FrozenDictionary<string, string> s_words = new Dictionary<string, string>
    {
        ["Pat"] = "IA32_PAT",
        ["Efer"] = "IA32_EFER",
        ["Debug"] = "debug",
        ["Debugctl"] = "IA32_DEBUGCTL",
        ["Rights"] = "access rights",
        ["Io"] = "I/O",
        ["X2apic"] = "x2APIC",
        ["Vmcs"] = "VMCS",
        ["Nmis"] = "NMIs",
        ["Apic"] = "APIC",
        ["Ve"] = "#VE",
        ["Ia32e"] = "IA-32e",
        ["Smm"] = "SMM",
        ["Vm"] = "VM",
    }.ToFrozenDictionary();

    /// <summary>Short words that are written in capitals.</summary>
    private static readonly FrozenSet<string> s_capitals = new[]
    {
        "Es", "Cs", "Ss", "Ds", "Fs", "Gs", "Ldtr", "Tr", "Gdtr", "Idtr", "Cr0", "Cr3", "Cr4", "Cr8", "Dr", "Dr7", "Rsp", "Rip", "Rflags", "Rcx", "Rsi", "Rdi",
        "Eptp", "Ept", "Pml", "Tsc", "Tpr", "Smbase", "Msr", "Nmi", "Hlt", "Invlpg", "Mwait", "Rdpmc", "Rdtsc", "Rdtscp", "Wbinvd", "Vpid", "Rdrand", "Rdseed",
        "Invpcid", "Xsaves", "Pdpte0", "Pdpte1", "Pdpte2", "Pdpte3", "Pause", "Monitor", "Eoi",
    }.ToFrozenSet();

    /// <summary>A field's name.</summary>
    public static string Of(VmcsField field)
    {
        if (s_fields.TryGetValue(field, out string? name)) return name;
        string words = Enum.GetName(field) ?? $"{(int)field:X4}H";
        foreach (string register in (string[])["Cs", "Esp", "Eip"])
            words = words.Replace("Sysenter" + register, $" IA32_SYSENTER_{register.ToUpperInvariant()}");
        return Words(words.Replace("DebugCtl", "Debugctl"));
    }

    /// <summary>The controls that are set, by name; those that have none by their number. What is always set is left out.</summary>
    /// <typeparam name="T">An enumeration of controls.</typeparam>
    public static IEnumerable<string> Of<T>(ulong controls) where T : struct, Enum
    {
        ulong rest = controls;
        var always = 0ul;
        foreach (T value in Enum.GetValues<T>())
        {
            ulong bit = Convert.ToUInt64(value, null);
            if (!BitOperations.IsPow2(bit)) always |= bit;
        }
        foreach (T value in Enum.GetValues<T>())
        {
            ulong bit = Convert.ToUInt64(value, null);
            if (!BitOperations.IsPow2(bit) || (controls & bit) == 0) continue;
            rest &= ~bit;
            yield return Words(value.ToString().Replace("X2Apic", "X2apic").Replace("Ia32e", "Ia32e"));
        }
        for (rest &= ~always; rest != 0; rest &= rest - 1) yield return $"bit {BitOperations.TrailingZeroCount(rest)}";
    }

    /// <summary>A basic exit reason's name; its number where it has none.</summary>
    public static string Of(VmxExitReason reason) => Enum.GetName(reason) ?? $"reason {(uint)reason}";

    /// <summary>From "GuestEsSelector" to "Guest ES selector".</summary>
    private static string Words(string identifier)
    {
        var words = new List<string>();
        for (int start = 0; start < identifier.Length;)
        {
            int end = start + 1;
            if (identifier[start] == ' ') end = identifier.Length;
            while (end < identifier.Length && !char.IsAsciiLetterUpper(identifier[end]) && identifier[end] != ' ') end++;
            string word = identifier[start..end].Trim();
            words.Add(s_words.TryGetValue(word, out string? spelled) ? spelled
                : s_capitals.Contains(word) ? word.ToUpperInvariant() : words.Count == 0 || word.StartsWith("IA32", StringComparison.Ordinal) ? word
                : word.ToLowerInvariant());
            start = end;
        }
        return string.Join(' ', words);
    }
}
