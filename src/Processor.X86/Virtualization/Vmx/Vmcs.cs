using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// The current VMCS, held by the processor while it is current. Its region in memory is brought up to date when it is cleared, or another becomes current.
/// </summary>
/// <remarks>
/// Intel SDM vol. 3C, "Format of the VMCS Region". The data behind the first eight bytes is ours to arrange: the launch state, then each field in eight bytes.
/// </remarks>
internal sealed unsafe class Vmcs
{
    /// <summary>Revision identifier, bits 30:0 of the first doubleword; bit 31 there marks a shadow VMCS.</summary>
    public const uint Revision = 0x42_0001, ShadowIndicator = 1u << 31;

    /// <summary>Offsets in the region.</summary>
    public const int AbortOffset = 4, LaunchedOffset = 8, FieldsOffset = 16;

    /// <summary>Bytes of a VMCS region, as IA32_VMX_BASIC tells.</summary>
    public const int RegionSize = 4096;

    private readonly ulong[] _values = new ulong[VmcsFields.Slots];

    /// <summary>VMLAUNCH has been executed since the last VMCLEAR.</summary>
    public bool Launched { get; set; }

    /// <summary>What VMWRITE and VMPTRLD have changed since it was last looked at.</summary>
    public VmcsParts Changed { get; set; } = VmcsParts.All;

    /// <summary>VMWRITE: the field gets another value.</summary>
    public void Write(VmcsField field, ulong value)
    {
        ref ulong slot = ref this[field];
        if (slot == value) return;
        Changed |= PartsOf(field, slot ^ value);
        slot = value;
    }

    /// <summary>What a VM entry has to look at again when these bits of a field have changed. What is not named here it always looks at.</summary>
    private static VmcsParts PartsOf(VmcsField field, ulong bits) => field switch
    {
        VmcsField.GuestRip or VmcsField.GuestRsp or VmcsField.GuestCr3 or VmcsField.GuestInterruptibility or VmcsField.GuestActivity
            or VmcsField.GuestPendingDebug or VmcsField.GuestSysenterCs or VmcsField.GuestSysenterEsp or VmcsField.GuestSysenterEip or VmcsField.GuestDr7
            or VmcsField.GuestDebugCtl or VmcsField.GuestPat or VmcsField.VmcsLinkPointer or VmcsField.PreemptionTimer
            or VmcsField.GuestInterruptStatus => 0,
        VmcsField.GuestRflags => (bits & (ulong)Rflags.Vm) != 0 ? VmcsParts.Segments : 0,
        _ => VmcsFields.Group(field) switch
        {
            VmcsGroup.ReadOnly => 0,
            VmcsGroup.Guest => VmcsParts.Segments,
            _ => VmcsParts.All, // controls decide what is asked of everything else
        },
    };

    public ref ulong this[VmcsField field]
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => ref _values[VmcsFields.Slot(field)];
    }

    /// <summary>Fields that follow each other in the region and in the slots: VMPTRLD copies all of them.</summary>
    private readonly record struct Run(int Slot, int Ordinal, int Count, ulong Mask);

    private static readonly Run[] s_runs = [.. Runs()];

    private static IEnumerable<Run> Runs()
    {
        for (int first = 0, next; first < VmcsFields.All.Length; first = next)
        {
            VmcsField field = VmcsFields.All[first];
            ulong mask = VmcsFields.Mask(field);
            int slot = VmcsFields.Slot(field);
            for (next = first + 1; next < VmcsFields.All.Length && VmcsFields.Slot(VmcsFields.All[next]) == slot + next - first
                && VmcsFields.Mask(VmcsFields.All[next]) == mask; next++)
            {
            }
            yield return new Run(slot, first, next - first, mask);
        }
    }

    /// <summary>Takes a region's data over; any content will do.</summary>
    public void Load(byte* region)
    {
        Changed = VmcsParts.All;
        Launched = *(ulong*)(region + LaunchedOffset) == 1;
        foreach (Run run in s_runs)
        {
            Span<ulong> values = _values.AsSpan(run.Slot, run.Count);
            new ReadOnlySpan<ulong>(region + FieldsOffset + run.Ordinal * 8, run.Count).CopyTo(values);
            if (run.Mask == ulong.MaxValue) continue;
            foreach (ref ulong value in values) value &= run.Mask;
        }
    }

    /// <summary>Brings a region's data up to date.</summary>
    public void Store(byte* region)
    {
        *(ulong*)(region + LaunchedOffset) = Launched ? 1ul : 0;
        foreach (Run run in s_runs) _values.AsSpan(run.Slot, run.Count).CopyTo(new Span<ulong>(region + FieldsOffset + run.Ordinal * 8, run.Count));
    }

    /// <summary>Where a field of a VMCS that is not current, as a shadow VMCS, lies in its region.</summary>
    public static int OffsetOf(VmcsField field) => FieldsOffset + VmcsFields.Ordinal(field) * 8;

    /// <summary>Every field in the order of <see cref="VmcsFields.All"/>.</summary>
    public ulong[] Save() => [.. VmcsFields.All.Select(f => this[f])];

    public void Restore(ulong[] values)
    {
        Changed = VmcsParts.All;
        for (int n = 0; n < VmcsFields.All.Length && n < values.Length; n++) this[VmcsFields.All[n]] = values[n] & VmcsFields.Mask(VmcsFields.All[n]);
    }
}

/// <summary>Parts of a VMCS that are looked at together.</summary>
[Flags]
internal enum VmcsParts
{
    /// <summary>Controls and host state, for the checks of a VM entry.</summary>
    Controls = 1,
    /// <summary>The guest's segments, with what decides what they may be.</summary>
    Segments = 2,
    /// <summary>What decides which instructions of the guest its hypervisor is asked about.</summary>
    Intercepts = 4,
    All = Controls | Segments | Intercepts,
}
