using Bunraku.Engines;
using Bunraku.Processor.X86;

namespace Bunraku.Processor.Tests;

/// <summary>The tables of VMX agree with each other and with the manual's rules for them.</summary>
public sealed class VmxTableTests
{
    private static readonly CpuModel s_model = CpuModels.Parse("max,+vmx");

    private static (uint Required, uint Allowed) Pair(uint index)
    {
        ulong value = VmxCapabilities.Read(index, s_model, 0);
        return ((uint)value, (uint)(value >> 32));
    }

    /// <summary>
    /// Intel SDM vol. 3D, "Field Encoding in VMCS": no two fields share an encoding, only 64-bit fields have an upper half, reserved bits name none.
    /// </summary>
    [Fact]
    public void Each_field_is_found_by_its_encoding_and_nothing_else_is()
    {
        var found = new HashSet<VmcsField>();
        for (ulong encoding = 0; encoding < 0x1_0000; encoding++)
        {
            if (!VmcsFields.TryFind(encoding, out VmcsField field, out bool high)) continue;
            Assert.Equal(encoding, (ulong)field | (high ? 1ul : 0));
            if (high) Assert.Equal(1ul, encoding >> 13 & 3);
            else Assert.True(found.Add(field));
        }
        Assert.Equal([.. Enum.GetValues<VmcsField>().Order()], found.Order());
        Assert.Equal(found.Count, found.Select(VmcsFields.Slot).Distinct().Count());
        Assert.Equal(VmxCapabilities.Read(VmxCapabilities.VmcsEnum, s_model, 0), found.Max(f => (ulong)f & 0x3FE));
    }

    /// <summary>A region holds all fields; the shadow's offsets are those of the region.</summary>
    [Fact]
    public void A_VMCS_region_holds_every_field()
    {
        Assert.All(VmcsFields.All, f => Assert.InRange(Vmcs.OffsetOf(f), Vmcs.FieldsOffset, Vmcs.RegionSize - sizeof(ulong)));
        Assert.Equal(VmcsFields.All.Length, VmcsFields.All.Select(Vmcs.OffsetOf).Distinct().Count());
    }

    /// <summary>
    /// Intel SDM vol. 3D, "VMX Capability Reporting Facility": what must be 1 may be; the TRUE MSRs ask for no more; every bit that may be set has a name.
    /// </summary>
    [Theory]
    [InlineData(VmxCapabilities.PinBased, VmxCapabilities.TruePinBased, typeof(PinControls))]
    [InlineData(VmxCapabilities.ProcessorBased, VmxCapabilities.TrueProcessorBased, typeof(ProcessorControls))]
    [InlineData(VmxCapabilities.Exit, VmxCapabilities.TrueExit, typeof(ExitControls))]
    [InlineData(VmxCapabilities.Entry, VmxCapabilities.TrueEntry, typeof(EntryControls))]
    [InlineData(VmxCapabilities.Secondary, VmxCapabilities.Secondary, typeof(SecondaryControls))]
    public void Capability_MSRs_are_consistent(uint index, uint trueIndex, Type controls)
    {
        (uint required, uint allowed) = Pair(index);
        (uint trueRequired, uint trueAllowed) = Pair(trueIndex);
        uint named = Enum.GetValuesAsUnderlyingType(controls).Cast<uint>().Aggregate(0u, (sum, bit) => sum | bit);
        Assert.Equal((0u, allowed, 0u, 0u), (required & ~allowed, trueAllowed, trueRequired & ~required, allowed & ~named));
    }

    /// <summary>Every reason that the processor can give is one of the manual's numbers, and none is named twice.</summary>
    [Fact]
    public void Exit_reasons_are_distinct()
    {
        uint[] reasons = [.. Enum.GetValues<VmxExitReason>().Select(r => (uint)r)];
        Assert.Equal(reasons.Length, reasons.Distinct().Count());
        Assert.All(reasons, r => Assert.InRange(r, 0u, 64u));
    }

    /// <summary>Each check of an entry has a name of its own, by which a failure is told.</summary>
    [Fact]
    public void Entry_checks_have_names()
    {
        string[] names = [.. VmxEntryChecks.Controls.Concat(VmxEntryChecks.Host).Concat(VmxEntryChecks.GuestRegisters)
            .Concat(VmxEntryChecks.GuestSegments).Concat(VmxEntryChecks.GuestRest).Select(c => c.Name)];
        Assert.Equal(names.Length, names.Distinct().Count());
    }

    /// <summary>Each word takes something away, and with it what builds on it; all are there unless they are taken away.</summary>
    [Fact]
    public void Capabilities_are_switched_by_their_words()
    {
        foreach (CpuFeature feature in Enum.GetValues<CpuFeature>().Where(f => f.ToString().StartsWith("Vmx", StringComparison.Ordinal) && f != CpuFeature.Vmx))
        {
            Assert.True(s_model.Has(feature), $"+vmx does not bring {feature}");
            CpuModel without = CpuModels.Parse($"max,+vmx,-{CpuModels.Name(feature)}");
            ulong[] of(CpuModel model) => [.. Enumerable.Range(0, VmxCapabilities.Names.Length)
                .Select(n => VmxCapabilities.Read(VmxCapabilities.Basic + (uint)n, model, 0))];
            Assert.True(!of(s_model).SequenceEqual(of(without)), $"-{CpuModels.Name(feature)} changes nothing");
        }
        CpuModel noEpt = CpuModels.Parse("max,+vmx,-vmx-ept");
        Assert.Equal(0ul, VmxCapabilities.Read(VmxCapabilities.EptVpid, noEpt, 0) & uint.MaxValue);
        Assert.Equal((SecondaryControls)0, VmxCapabilities.SecondaryBits(noEpt) & (SecondaryControls.EnableEpt | SecondaryControls.UnrestrictedGuest
            | SecondaryControls.EnablePml | SecondaryControls.EnableVmFunctions | SecondaryControls.ModeBasedExecute | SecondaryControls.EptViolationVe));
        Assert.False(CpuModels.Parse("max").Has(CpuFeature.VmxEpt));
    }
}
