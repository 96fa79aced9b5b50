using System.Collections.Immutable;
using System.Runtime.CompilerServices;

namespace Bunraku.Engines.X86;

/// <summary>What an encoding says about a field.</summary>
public static class VmcsFields
{
    /// <summary>Every field, in the order in which a VMCS region holds them.</summary>
    public static readonly ImmutableArray<VmcsField> All = [.. Enum.GetValues<VmcsField>().Order()];

    private static readonly short[] s_ordinals = Ordinals();

    /// <summary>Numbers of slots: two bits of width, two of type, five of index.</summary>
    public const int Slots = 512;

    /// <summary>Where a field lies among <see cref="Slots"/>; a constant for a constant field.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Slot(VmcsField field) => ((int)field >> 13 & 3) << 7 | ((int)field >> 10 & 3) << 5 | ((int)field >> 1 & 31);

    /// <summary>The field of an encoding as VMREAD and VMWRITE get it; false: there is none.</summary>
    /// <param name="high">The upper half of a 64-bit field is meant.</param>
    public static bool TryFind(ulong encoding, out VmcsField field, out bool high)
    {
        field = (VmcsField)(encoding & 0x7FFE);
        high = (encoding & 1) != 0;
        return encoding <= 0x7FFF && (encoding & 0x3FE) < 64 && s_ordinals[Slot(field)] >= 0 && (!high || Width(field) == VmcsWidth.Quadword)
            && (encoding & 0x1000) == 0;
    }

    /// <summary>Position in <see cref="All"/>.</summary>
    public static int Ordinal(VmcsField field) => s_ordinals[Slot(field)];

    /// <summary>How wide a field is.</summary>
    public static VmcsWidth Width(VmcsField field) => (VmcsWidth)((int)field >> 13 & 3);

    /// <summary>What a field is for.</summary>
    public static VmcsGroup Group(VmcsField field) => (VmcsGroup)((int)field >> 10 & 3);

    /// <summary>The highest index of any field, as IA32_VMX_VMCS_ENUM tells it in bits 9:1.</summary>
    public static ulong HighestIndex => All.Max(f => (ulong)f & 0x3FE);

    /// <summary>The bits that a field has: 16, 32 or 64.</summary>
    public static ulong Mask(VmcsField field) => Width(field) switch { VmcsWidth.Word => 0xFFFF, VmcsWidth.Doubleword => uint.MaxValue, _ => ulong.MaxValue };

    private static short[] Ordinals()
    {
        var ordinals = new short[Slots];
        Array.Fill(ordinals, (short)-1);
        for (int n = 0; n < All.Length; n++) ordinals[Slot(All[n])] = (short)n;
        return ordinals;
    }
}
