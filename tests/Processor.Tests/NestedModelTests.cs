using Bunraku.Engines;

namespace Bunraku.Processor.Tests;

/// <summary>What a model's text and the virtualization that is asked for beside it come to.</summary>
public sealed class NestedModelTests
{
    [Theory]
    [InlineData(null, NestedVirtualization.Svm, CpuFeature.Svm, null)]
    [InlineData("max", NestedVirtualization.Vmx, CpuFeature.Vmx, null)]
    [InlineData("max,+svm", null, CpuFeature.Npt, null)]
    [InlineData("max,+svm,-npt", null, CpuFeature.Svm, CpuFeature.Npt)]
    [InlineData("max,-npt,+svm", null, CpuFeature.Svm, CpuFeature.Npt)]
    [InlineData("max,-npt", NestedVirtualization.Svm, CpuFeature.Svm, CpuFeature.Npt)]
    [InlineData("max,-npt,+npt", NestedVirtualization.Svm, CpuFeature.Npt, null)]
    [InlineData("max,-vmx-mbec", NestedVirtualization.Vmx, CpuFeature.VmxEpt, CpuFeature.VmxMbec)]
    [InlineData("max,-vmx-ept", NestedVirtualization.Vmx, CpuFeature.Vmx, CpuFeature.VmxUnrestrictedGuest)]
    [InlineData("max,-vmx", null, CpuFeature.Avx2, CpuFeature.Vmx)]
    [InlineData("max,+npt,-npt", null, CpuFeature.Avx2, CpuFeature.Npt)]
    public void A_model_has_what_its_text_and_the_technique_say(string? text, NestedVirtualization? nested, CpuFeature has, CpuFeature? lacks)
    {
        CpuModel model = CpuModels.Parse(text, nested);
        Assert.True(model.Has(has));
        if (lacks is { } feature) Assert.False(model.Has(feature));
    }

    [Theory]
    [InlineData("max,-vmx", NestedVirtualization.Vmx, "'max,-vmx' leaves VMX out, and nested virtualization is to be VMX")]
    [InlineData("max,-svm", NestedVirtualization.Svm, "'max,-svm' leaves SVM out, and nested virtualization is to be SVM")]
    [InlineData("max,+svm", NestedVirtualization.Vmx, "'max,+svm' asks for SVM, and nested virtualization is to be VMX")]
    [InlineData("max,+vmx", NestedVirtualization.Svm, "'max,+vmx' asks for VMX, and nested virtualization is to be SVM")]
    [InlineData("max,+svm", NestedVirtualization.Off, "'max,+svm' asks for SVM, and nested virtualization is to be off")]
    [InlineData("max,+npt", null, "'npt' is a part of svm, which is not asked for: add +svm")]
    [InlineData("x86-64-v3,+vmx-ept", null, "is a part of vmx, which is not asked for: add +vmx")]
    [InlineData("max,+svm,+vmx", null, "asks for VMX, which is Intel's, and SVM, which is AMD's: take one")]
    [InlineData("x86-64-v3-intel", NestedVirtualization.Svm, "'x86-64-v3-intel' is an Intel model, and SVM is AMD's: take x86-64-v3 or max")]
    public void A_text_and_a_technique_that_contradict_each_other_get_one_line(string text, NestedVirtualization? nested, string message) =>
        Assert.Contains(message, Assert.Throws<FormatException>(() => CpuModels.Parse(text, nested)).Message, StringComparison.Ordinal);
}
