using System.Globalization;
using System.Text;

namespace Bunraku.Sessions.Monitoring;

/// <summary>What a vCPU has of VMX, for people: VMX operation, and the current VMCS field by field, controls decoded.</summary>
/// <remarks>Intel SDM vol. 3C, "Virtual-Machine Control Structures": names and groups.</remarks>
public static class VmxReport
{
    private const int Indent = 4;

    /// <summary>Lines for people; null: the processor has no VMX.</summary>
    /// <param name="state">The vCPU's.</param>
    /// <param name="width">Characters of a line.</param>
    public static string? Write(CpuState state, int width = 80)
    {
        if (state.Vmx is not { } vmx) return null;
        if (!vmx.InOperation) return "outside VMX operation\n";
        var text = new StringBuilder();
        text.Append(vmx.InGuest ? "VMX non-root operation: a guest runs" : "VMX root operation");
        text.Append(CultureInfo.InvariantCulture, $"; VMXON region {vmx.OperationPointer:x}\n");
        if (vmx.CurrentPointer == VmxState.None) return text.Append("no VMCS is current\n").ToString();
        text.Append(CultureInfo.InvariantCulture,
            $"current VMCS {vmx.CurrentPointer:x}, {(vmx.Launched ? "launched" : "clear")}{(vmx.IsShadow ? ", a shadow VMCS" : "")}\n");
        if (vmx.InGuest) text.Append("The guest-state area is that of the entry; 'info registers' shows the guest.\n");
        foreach ((VmcsGroup group, string title) in ((VmcsGroup, string)[])[(VmcsGroup.Control, "control fields"), (VmcsGroup.ReadOnly, "VM-exit information"),
            (VmcsGroup.Guest, "guest-state area"), (VmcsGroup.Host, "host-state area")])
        {
            text.Append(title).Append('\n');
            Fields(text, vmx, group, width);
        }
        return text.ToString();
    }

    /// <summary>Two fields a line where they are short.</summary>
    private static void Fields(StringBuilder text, VmxState vmx, VmcsGroup group, int width)
    {
        int half = width / 2;
        string? left = null;
        foreach (VmcsField field in VmcsFields.All)
        {
            if (VmcsFields.Group(field) != group) continue;
            ulong value = vmx[field];
            int digits = VmcsFields.Width(field) switch { VmcsWidth.Word => 4, VmcsWidth.Doubleword => 8, _ => 16 };
            string item = $"  {VmxNames.Of(field)} {value.ToString($"x{digits}", CultureInfo.InvariantCulture)}";
            string decoded = Decode(field, value);
            bool isShort = item.Length < half && decoded.Length == 0;
            if (left != null && isShort)
            {
                text.Append(left.PadRight(half)).Append(item).Append('\n');
                left = null;
                continue;
            }
            if (left != null) text.Append(left).Append('\n');
            left = isShort ? item : null;
            if (isShort) continue;
            text.Append(item).Append('\n');
            foreach (string line in TextLayout.Wrap(decoded, width - Indent)) text.Append(' ', Indent).Append(line).Append('\n');
        }
        if (left != null) text.Append(left).Append('\n');
    }

    /// <summary>What a value means; empty where it says all by itself.</summary>
    private static string Decode(VmcsField field, ulong value) => field switch
    {
        VmcsField.PinBasedControls => List(VmxNames.Of<PinControls>(value)),
        VmcsField.ProcessorBasedControls => List(VmxNames.Of<ProcessorControls>(value)),
        VmcsField.SecondaryControls => List(VmxNames.Of<SecondaryControls>(value)),
        VmcsField.ExitControls => List(VmxNames.Of<ExitControls>(value)),
        VmcsField.EntryControls => List(VmxNames.Of<EntryControls>(value)),
        VmcsField.GuestInterruptibility when value != 0 => List(VmxNames.Of<Interruptibility>(value)),
        VmcsField.ExitReason => VmxNames.Of((VmxExitReason)(ushort)value) + ((value >> 31 & 1) != 0 ? ", the entry failed" : ""),
        VmcsField.InstructionError when value != 0 => ((VmxError)value).ToString(),
        VmcsField.EntryInterruptionInformation or VmcsField.ExitInterruptionInformation or VmcsField.IdtVectoringInformation => Event(value),
        VmcsField.EptPointer when value != 0 => string.Create(CultureInfo.InvariantCulture,
            $"PML4 at {value & PagingBits.AddressMask:x}, {EptBits.PointerLevels(value)} levels, "
                + $"{((value & EptBits.PointerAccessedDirty) != 0 ? "accessed and dirty flags" : "no accessed and dirty flags")}"),
        _ => "",
    };

    private static string List(IEnumerable<string> names) => string.Join(", ", names);

    private static string Event(ulong value)
    {
        if ((value >> 31 & 1) == 0) return "";
        string kind = (value >> 8 & 7) switch
        {
            0 => "external interrupt",
            2 => "NMI",
            3 => "hardware exception",
            4 => "software interrupt",
            5 => "privileged software exception",
            6 => "software exception",
            7 => "other event",
            _ => "reserved type",
        };
        return $"{kind}, vector {value & 0xFF}{((value >> 11 & 1) != 0 ? ", with an error code" : "")}";
    }
}
